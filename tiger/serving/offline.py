"""Recommendations for all users of a log, from file to file, in bounded memory; an interrupted run can be resumed.

The log is first partitioned by a hash of the user, so that all events of a user are in one part, wherever in the file
they were. Then recommendations are computed and written per part, and joined at the end. Intermediate files are in a
directory beside the output until that is complete; a run that was killed resumes from them. One run at a time writes
an output.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import torch
from tqdm.auto import tqdm

from tiger.data.readers import read_events
from tiger.data.sequences import Sequences
from tiger.recommender.filters import CompiledFilter, is_per_user
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.search_options import MAX_BEAMS, check_value
from tiger.utils.digests import file_digests
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError
from tiger.utils.files import sync, write_atomically, written_whole
from tiger.utils.json_files import parse_json, read_json
from tiger.utils.locks import locked

MAX_PARTS = 1000
SETTINGS = "settings.json"
SCHEMA = pa.schema({"user_id": pa.string(), "rank": pa.int32(), "item_id": pa.string(), "score": pa.float32()})
DAMAGES = (pa.ArrowException, OSError, ValueError)  # of a table that is no longer as written
_PARTITIONED = pa.schema(
    {"part": pa.int32(), "user_id": pa.string(), "row": pa.int32(), "timestamp": pa.int64(), "place": pa.int64()}
)


def recommend_users(
    tiger: TigerRecommender,
    histories: str | os.PathLike,
    out: str | os.PathLike,
    *,
    part_events: int = 20_000,
    bf16: bool = True,
    progress: bool = False,
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
        options: of :meth:`TigerRecommender.recommend_rows`: ``k``, ``num_beams``, ``exclude_history``, ...; one
            ``filter`` for all users.

    Returns:
        ``events``, ``users`` and ``unknown_events``, those of items that the catalog lacks, which are left out.

    Raises:
        DataError: the log is missing, damaged or lacks a column, ``out`` or its intermediate files are of another run,
            another process is writing ``out``, or scores are NaN or infinite.
        DiskError: the disk is full, read-only or denied. What is done is kept: the same call goes on from there.
    """
    histories, out = Path(histories), Path(out)
    check_value("part_events", part_events, int, minimum=1)
    check_value("k", options.get("k", 10), int, 1, MAX_BEAMS)
    if not out.parent.is_dir():
        raise DataError(f"{out.parent} is not a directory: make it, or write somewhere else.")
    tables = read_events(histories)
    settings: dict[str, Any] = {
        "log": _identity(histories),
        "recommender": _fingerprint(tiger),
        "part_events": part_events,
    }
    if (filter := options.pop("filter", None)) is not None:
        filter = _one_filter(tiger, filter)
        # What it allows, not how it is written: a name may mean something else when the run is resumed.
        settings["filter"] = hashlib.sha256(filter.mask.tobytes()).hexdigest()[:16]
    settings |= {"bf16": bf16, "options": options}
    # A run may take hours: the second comer is told at once who holds it.
    with disk_errors(out), locked(out, wait=0):
        return _recommended(tiger, tables, out, settings, filter, progress)


def _one_filter(tiger: TigerRecommender, given: Any) -> CompiledFilter:
    """A filter for all users of a log.

    Raises:
        DataError: it is a list of one for each, or can't be read.
    """
    if is_per_user(given):
        raise DataError("filter: a log takes one filter for all its users, not a list of filters.")
    return tiger.compile_filter(given)


def _recommended(
    tiger: TigerRecommender,
    tables: Iterator[pa.Table],
    out: Path,
    settings: dict[str, Any],
    filter: CompiledFilter | None,
    progress: bool,
) -> dict[str, int]:
    """Partition the log, answer part by part, join; the counts."""
    folder = out.parent / f".{out.name}.parts"
    if out.exists():
        counts = _counts_of_finished(out, settings)
        _remove_parts(folder)  # of a run that was killed at its very end
        return counts
    unknown = _partition(tiger, tables, folder, settings)
    counts = {"events": settings["log"]["events"], "users": 0, "unknown_events": unknown}
    num_parts, events = _num_parts(settings), 0
    with tqdm(total=counts["events"], desc="recommending", unit="event", disable=not progress) as bar:
        for part in range(num_parts):
            users, sequences, num_events = _read_part(folder / "events" / f"part={part}")
            file = folder / f"{part}.parquet"
            if not _is_whole(file, part):
                with torch.autocast(tiger.device.type, torch.bfloat16, enabled=settings["bf16"]):
                    rows, scores = tiger.recommend_rows(sequences, filter=filter, **settings["options"])
                _write_part(file, part, _answers(tiger, users, rows, scores))
            counts["users"] += len(users)
            events += num_events
            bar.set_postfix(users=counts["users"], refresh=False)
            bar.update(num_events)
    if events != counts["events"]:
        raise DataError(f"{folder} holds {events} of {counts['events']} events: remove it, then start again.")
    _join_parts(folder, num_parts, out, settings | {"counts": counts})
    return counts


def _write_part(file: Path, part: int, answers: pa.Table) -> None:
    with written_whole(file) as temporary:
        pq.write_table(answers.replace_schema_metadata({"part": str(part)}), temporary, write_page_checksum=True)


def _is_whole(file: Path, part: int) -> bool:
    """Whether a part was answered; one that is damaged counts as not, and is answered anew."""
    if not file.exists():
        return False
    try:
        schema = _read_checked(file).schema
    except DAMAGES:
        return False
    return schema.equals(SCHEMA) and (schema.metadata or {}).get(b"part") == str(part).encode()


def _read_checked(file: Path) -> pa.Table:
    """Read a table whose pages have checksums; OSError if one does not fit."""
    table = pq.read_table(file, page_checksum_verification=True)
    table.validate(full=True)
    return table


def _join_parts(folder: Path, num_parts: int, out: Path, metadata: dict) -> None:
    """Write the parts to one file, then remove their folder."""
    told = json.dumps(metadata)
    schema = SCHEMA.with_metadata({"tiger": told, "sha256": hashlib.sha256(told.encode()).hexdigest()})
    whole = folder / "whole"  # not beside ``out``: what a killed run leaves is removed with the folder
    with written_whole(whole) as temporary, pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
        for part in range(num_parts):
            writer.write_table(_read_checked(folder / f"{part}.parquet").replace_schema_metadata(schema.metadata))
    os.replace(whole, out)
    sync(out.parent)
    _remove_parts(folder)


def _remove_parts(folder: Path) -> None:
    """Remove a folder of parts, the settings first: without them, no run resumes from what is left."""
    (folder / SETTINGS).unlink(missing_ok=True)
    if folder.exists():
        sync(folder)
        shutil.rmtree(folder)


def _counts_of_finished(out: Path, settings: dict) -> dict[str, int]:
    """The counts that a finished output says of itself, after a look at all of it.

    Raises:
        DataError: it is of another run, or damaged.
    """
    metadata: dict[bytes, bytes] = {}
    try:
        with pq.ParquetFile(out, page_checksum_verification=True) as opened:
            metadata = opened.schema_arrow.metadata or {}
            if b"tiger" in metadata:
                rows = 0
                for batch in opened.iter_batches():
                    batch.validate(full=True)
                    rows += len(batch)
                if rows != opened.metadata.num_rows or not opened.schema_arrow.equals(SCHEMA):
                    raise ValueError("not what was written")
        done = parse_json(metadata.get(b"tiger", b"{}").decode(), str(out))
    except DAMAGES as error:
        why = " ".join(str(error).split())[:100]
        raise DataError(f"{out} is there already, but is damaged ({why}): remove it, or name another file.") from error
    told = metadata.get(b"sha256")
    if told is not None and told.decode("ascii", "replace") != hashlib.sha256(metadata[b"tiger"]).hexdigest():
        raise DataError(f"{out} is there already, but its settings are damaged: remove it, or name another file.")
    counts = done.pop("counts", None) if isinstance(done, dict) else None
    if done != settings or not isinstance(counts, dict):
        raise DataError(
            f"{out} is there already, of another log or with other settings: remove it, or name another file."
        )
    return counts


def _num_parts(settings: dict) -> int:
    return min(MAX_PARTS, max(1, -(-settings["log"]["events"] // settings["part_events"])))


def _partition(tiger: TigerRecommender, tables: Iterator[pa.Table], folder: Path, settings: dict) -> int:
    """Write the events to one folder per part, unless done before; the number of events of unknown items."""
    file = folder / SETTINGS
    if file.exists():
        done = read_json(file)
        unknown, events = done.pop("unknown_events", None), done.pop("events_sha256", None)
        if events is not None and events != file_digests(folder / "events"):
            raise DataError(f"{folder} is damaged: its events are not as written. Remove it, then start again.")
        if done != settings or not isinstance(unknown, int):
            raise DataError(
                f"{folder} holds an interrupted run of another log or with other settings: "
                "go on with those, or remove the folder."
            )
        return unknown
    _remove_parts(folder)  # of a run that was killed before the partition was complete, or while it was removed
    folder.mkdir()
    unknown, num_parts = 0, _num_parts(settings)
    item_ids = pa.array(tiger.tokenizer.item_ids, pa.string())

    def partitioned() -> Iterator[pa.RecordBatch]:
        nonlocal unknown
        start = 0
        for table in tables:
            users = table["user_id"].cast(pa.string()).combine_chunks()
            encoded = users.dictionary_encode()
            parts = pd.util.hash_array(encoded.dictionary.to_numpy(zero_copy_only=False)) % np.uint64(num_parts)
            rows = pc.index_in(table["item_id"].cast(pa.string()).combine_chunks(), value_set=item_ids)
            unknown += rows.null_count
            places = np.arange(start, start + len(table))
            times = table["timestamp"].cast(pa.int64()).combine_chunks()
            part = pa.array(parts.astype(np.int32)[encoded.indices.to_numpy()])
            yield pa.record_batch([part, users, rows.fill_null(-1), times, pa.array(places)], schema=_PARTITIONED)
            start += len(table)

    pyarrow.dataset.write_dataset(
        pa.RecordBatchReader.from_batches(_PARTITIONED, partitioned()),
        folder / "events",
        format="arrow",
        partitioning=pyarrow.dataset.partitioning(pa.schema({"part": pa.int32()}), flavor="hive"),
        max_open_files=512,
    )
    # Written last: its presence says that the partition is complete.
    found = {"unknown_events": unknown, "events_sha256": file_digests(folder / "events")}
    write_atomically(file, json.dumps(settings | found) + "\n")
    return unknown


def _read_part(folder: Path) -> tuple[pa.Array, Sequences, int]:
    """The users of a part, their events of known items, and the number of all their events."""
    if not folder.exists():  # no user has such a hash
        return pa.array([], pa.string()), Sequences(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0)), 0
    table = pyarrow.dataset.dataset(folder, format="arrow").to_table().sort_by("place")
    encoded = table["user_id"].combine_chunks().dictionary_encode()
    users, rows, times = encoded.indices.to_numpy(), table["row"].to_numpy(), table["timestamp"].to_numpy()
    order = np.lexsort((times, users))  # stable: those of one second stay in the order of the file
    order = order[rows[order] >= 0]
    lengths = np.bincount(users[order], minlength=len(encoded.dictionary))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return encoded.dictionary, Sequences(offsets, rows[order], times[order], encoded.dictionary), len(table)


def _answers(tiger: TigerRecommender, users: pa.Array, rows: np.ndarray, scores: np.ndarray) -> pa.Table:
    user, place = np.nonzero(rows >= 0)
    if not np.isfinite(scores[user, place]).all():
        raise DataError("the model scores items NaN or infinite: its weights are damaged. Train it again.")
    items = np.asarray(tiger.tokenizer.item_ids, dtype=object)[rows[user, place]]
    columns = [users.take(pa.array(user)), place.astype(np.int32) + 1, items, scores[user, place]]
    return pa.table(columns, schema=SCHEMA)


def _identity(log: Path) -> dict:
    """Identity of a log: its name, size, time of change and number of events."""
    found = log.stat()
    events = pq.read_metadata(log).num_rows
    return {"file": log.name, "bytes": found.st_size, "changed": found.st_mtime_ns, "events": events}


def _fingerprint(tiger: TigerRecommender) -> str:
    """Fingerprint of the catalog, of all weights and of all trees."""
    digest = hashlib.sha256(tiger.tokenizer.semantic_ids.tobytes() + tiger.unseen.tobytes())
    digest.update("\0".join(tiger.tokenizer.item_ids).encode())
    for weights in tiger.model.state_dict().values():
        digest.update(weights.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    if tiger.ranker is not None:
        digest.update(tiger.ranker.digest())
    return digest.hexdigest()[:16]
