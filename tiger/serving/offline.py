"""Recommendations for all users of a log, from file to file, in bounded memory; an interrupted run can be resumed.

The log is first partitioned by a hash of the user, so that all events of a user are in one part, wherever in the file
they were. Then recommendations are computed and written per part, and joined at the end. Intermediate files are in a
directory beside the output until that is complete; a run that was killed resumes from them. One run at a time writes
an output.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm.auto import tqdm

from tiger.data.readers import read_events
from tiger.recommender.filters import CompiledFilter, is_per_user
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.search_options import MAX_BEAMS, check_value
from tiger.serving.answer_parts import (
    counts_of_finished,
    is_answered,
    part_bytes,
    part_file,
    put_together,
    read_answers,
    recommend_part,
)
from tiger.serving.log_parts import deal_out, num_parts, part_folder, read_part
from tiger.serving.run_identity import identity_in_memory, log_identity
from tiger.utils.digests import file_digests
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError
from tiger.utils.files import sync, write_atomically, written_whole
from tiger.utils.json_files import read_json
from tiger.utils.locks import locked
from tiger.utils.stores import is_url, split_url

SETTINGS, EVENTS = "settings.json", "events"


def recommend_users(
    tiger: TigerRecommender,
    histories: str | os.PathLike,
    out: str | os.PathLike,
    *,
    part_events: int = 20_000,
    bf16: bool = True,
    progress: bool = False,
    identity: str | None = None,
    **options,
) -> dict[str, int]:
    """Recommend for every user of a log. After a run was killed, the same call resumes it and gives the same file.

    Args:
        histories: parquet file with ``user_id``, ``item_id`` and ``timestamp``, rows in any order; a user's events are
            read by time, those of one second in the order of the file.
        out: parquet file to write, best first for each user: ``user_id``, ``rank`` from 1, ``item_id``, ``score``.
            The order of users is arbitrary.
        part_events: approximate number of events in memory at a time; more if the log has over a thousand times as
            many.
        bf16: decode in bfloat16.
        progress: show a progress bar.
        identity: of the recommender, :func:`tiger.serving.run_identity.saved_identity` of the directory that it was
            read from, whose file is then that of a run by directory (``tiger recommend``); None: a digest of what is
            in memory.
        options: of :meth:`TigerRecommender.recommend_rows`: ``k``, ``num_beams``, ``exclude_history``, ...; one
            ``filter`` for all users.

    Returns:
        ``events``, ``users`` and ``unknown_events``, those of items that the catalog lacks, which are left out.

    Raises:
        DataError: the log is missing, damaged or lacks a column, ``out`` or its intermediate files are of another run,
            another process is writing ``out``, or scores are NaN or infinite.
        DiskError: the disk is full, read-only or denied. What is done is kept: the same call goes on from there.
    """
    tiger = copy.copy(tiger)  # of one moment: rows of its parts mean nothing to a catalog that was changed meanwhile
    histories, out = Path(histories), Path(out)
    check_run(out, part_events, options)
    tables = read_events(histories)
    filter = options.pop("filter", None)
    filter = None if filter is None else one_filter(tiger, filter)
    identity = identity or identity_in_memory(tiger)
    settings = run_settings(log_identity(histories), identity, part_events, bf16, filter_digest(filter), options)
    # A run may take hours: the second comer is told at once who holds it.
    with disk_errors(out), locked(out, wait=0):
        return _recommended(tiger, tables, out, settings, filter, progress)


def check_run(out: Path | None, part_events: int, options: dict[str, Any]) -> None:
    """Refuse settings before anything is read.

    Args:
        out: the file to write, where it is on a disk.

    Raises:
        DataError: a number is out of range, or ``out`` is in no directory.
    """
    check_value("part_events", part_events, int, minimum=1)
    check_value("k", options.get("k", 10), int, 1, MAX_BEAMS)
    if out is not None and not out.parent.is_dir():
        raise DataError(f"{out.parent} is not a directory: make it, or write somewhere else.")


def run_settings(
    log: dict, identity: str, part_events: int, bf16: bool, filter: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    """All that the answers of a run depend on, as its files record it."""
    settings: dict[str, Any] = {"log": log, "recommender": identity, "part_events": part_events}
    if filter is not None:
        settings["filter"] = filter
    return settings | {"bf16": bf16, "options": options}


def one_filter(tiger: TigerRecommender, given: Any) -> CompiledFilter:
    """A filter for all users of a log.

    Raises:
        DataError: it is a list of one for each, or can't be read.
    """
    if is_per_user(given):
        raise DataError("filter: a log takes one filter for all its users, not a list of filters.")
    return tiger.compile_filter(given)


def filter_digest(filter: CompiledFilter | None) -> str | None:
    """Digest of what a filter allows, not of how it is written: a name may mean something else when a run is
    resumed."""
    return None if filter is None else hashlib.sha256(filter.mask.tobytes()).hexdigest()[:16]


def parts_of(out: str) -> str:
    """The folder of intermediate files of an output."""
    folder, name = split_url(out)
    return f"{folder}/.{name}.parts" if is_url(out) else str(Path(folder) / f".{name}.parts")


def _recommended(
    tiger: TigerRecommender,
    tables: Iterator[pa.Table],
    out: Path,
    settings: dict[str, Any],
    filter: CompiledFilter | None,
    progress: bool,
) -> dict[str, int]:
    """Partition the log, answer part by part, join; the counts."""
    folder = Path(parts_of(str(out)))
    if out.exists():
        counts = counts_of_finished(out, settings, str(out))
        _remove_parts(folder)  # of a run that was killed at its very end
        return counts
    unknown = _partition(tiger, tables, folder, settings)
    counts = {"events": settings["log"]["events"], "users": 0, "unknown_events": unknown}
    parts, events = num_parts(settings["log"]["events"], settings["part_events"]), 0
    with tqdm(total=counts["events"], desc="recommending", unit="event", disable=not progress) as bar:
        for number in range(parts):
            part = read_part(folder / EVENTS / part_folder(number))
            file = folder / part_file(number)
            if not (file.exists() and is_answered(file, number)):
                write_atomically(file, part_bytes(recommend_part(tiger, part, settings, filter), number))
            counts["users"] += len(part.users)
            events += part.events
            bar.set_postfix(users=counts["users"], refresh=False)
            bar.update(part.events)
    if events != counts["events"]:
        raise DataError(f"{folder} holds {events} of {counts['events']} events: remove it, then start again.")
    _join_parts(folder, parts, out, settings | {"counts": counts})
    return counts


def _join_parts(folder: Path, parts: int, out: Path, settings: dict) -> None:
    """Write the parts to one file, then remove their folder."""
    whole = folder / "whole"  # not beside ``out``: what a killed run leaves is removed with the folder
    with written_whole(whole) as temporary:
        put_together((read_answers(folder / part_file(part)) for part in range(parts)), temporary, settings)
    os.replace(whole, out)
    sync(out.parent)
    _remove_parts(folder)


def _remove_parts(folder: Path) -> None:
    """Remove a folder of parts, the settings first: without them, no run resumes from what is left."""
    (folder / SETTINGS).unlink(missing_ok=True)
    if folder.exists():
        sync(folder)
        shutil.rmtree(folder)


def _partition(tiger: TigerRecommender, tables: Iterator[pa.Table], folder: Path, settings: dict) -> int:
    """Write the events to one folder per part, unless done before; the number of events of unknown items."""
    file = folder / SETTINGS
    if file.exists():
        done = read_json(file)
        unknown, events = done.pop("unknown_events", None), done.pop("events_sha256", None)
        if events is not None and events != file_digests(folder / EVENTS):
            raise DataError(f"{folder} is damaged: its events are not as written. Remove it, then start again.")
        check_same_run(done, settings, str(folder))
        if not isinstance(unknown, int):
            raise DataError(f"{file} is damaged: remove {folder}, then start again.")
        return unknown
    _remove_parts(folder)  # of a run that was killed before the partition was complete, or while it was removed
    folder.mkdir()
    rows_of = partial(tiger.tokenizer.rows, missing=-1)
    unknown = deal_out(tables, rows_of, folder / EVENTS, num_parts(settings["log"]["events"], settings["part_events"]))
    # Written last: its presence says that the partition is complete.
    found = {"unknown_events": unknown, "events_sha256": file_digests(folder / EVENTS)}
    write_atomically(file, json.dumps(settings | found) + "\n")
    return unknown


def check_same_run(done: dict, settings: dict, folder: str) -> None:
    """Refuse to go on with the intermediate files of another run.

    Raises:
        DataError: its settings are others.
    """
    if done != settings:
        raise DataError(
            f"{folder} holds an interrupted run of another log or with other settings: "
            "go on with those, or remove the folder."
        )
