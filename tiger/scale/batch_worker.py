"""A worker of batch recommendation: it reads the recommender from its directory, and leaves its results in files."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from tiger.data.readers import read_event_groups
from tiger.scale.pool import Worker
from tiger.serving.answer_parts import is_answered, part_bytes, part_file, recommend_part
from tiger.serving.log_parts import deal_out, part_of
from tiger.serving.model_source import ModelSource
from tiger.serving.offline import EVENTS, filter_digest, one_filter
from tiger.serving.run_identity import saved_identity
from tiger.utils.digests import file_digests
from tiger.utils.errors import DataError
from tiger.utils.stores import open_store, store_of


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of a worker: places, not their content.

    Args:
        model, revision: of the recommender.
        identity: that it has to have.
        histories: place of the log.
        parts: folder of intermediate files.
        device: to compute on.
        filter: in words; None: none.
    """

    model: str
    revision: str | None
    identity: str
    histories: str
    parts: str
    device: str
    filter: str | None


@dataclass(frozen=True)
class Deal:
    """A piece of the log to deal out.

    Args:
        number: of the piece.
        groups: its row groups.
        start: row of the log at which it begins.
        parts: number of parts of the log.
    """

    number: int
    groups: list[int]
    start: int
    parts: int


@dataclass(frozen=True)
class Part:
    """A part to answer.

    Args:
        number: of the part.
        settings: of the run.
        digests: SHA-256 of the files of its events, by their names.
    """

    number: int
    settings: dict[str, Any]
    digests: dict[str, str]


def name_of_deal(number: int) -> str:
    """Name of the file that says that a piece of the log is dealt out."""
    return f"dealt/{number}.json"


class BatchWorker(Worker):
    """Deals out, and answers. The recommender is read with the first task."""

    def __init__(self, settings: WorkerSettings, threads: int):
        import torch

        torch.set_num_threads(threads)
        self._settings, self._store = settings, open_store(settings.parts)
        self._tiger: Any = None
        self._filter: Any = None

    def _recommender(self) -> Any:
        if self._tiger is None:
            from transformers.utils.logging import disable_progress_bar

            from tiger.recommender.recommender import TigerRecommender

            disable_progress_bar()
            told = self._settings
            source = ModelSource(
                told.model, told.revision, partial(TigerRecommender.from_pretrained, device=told.device)
            )
            if saved_identity(source.folder()) != told.identity:
                raise DataError(
                    f"{told.model} is another recommender on a worker's machine than where the run was started: give "
                    "a directory that all machines share, or the same copy to each."
                )
            tiger = source.load().recommender
            self._filter = None if told.filter is None else one_filter(tiger, told.filter)
            self._tiger = tiger
        return self._tiger

    def filter_digest(self, _: int) -> str | None:
        """Digest of what the filter allows."""
        self._recommender()
        return filter_digest(self._filter)

    def deal(self, deal: Deal) -> dict[str, Any]:
        """Deal a piece of the log out; the number of its unknown events, and the digests of the files."""
        rows_of = partial(self._recommender().tokenizer.rows, missing=-1)
        place = self._settings.histories
        log, name = store_of(place)
        report: dict[str, Any] = {}
        with tempfile.TemporaryDirectory(prefix="tiger.") as scratch, log.open(name) as file:
            tables = read_event_groups(file, deal.groups, deal.start, place)
            report["unknown_events"] = deal_out(
                tables,
                rows_of,
                Path(scratch),
                deal.parts,
                start=deal.start,
                name=f"{deal.number}-{{i}}.arrow",
            )
            report["events_sha256"] = file_digests(scratch)
            for within in report["events_sha256"]:
                self._store.put(f"{EVENTS}/{within}", Path(scratch, within))
        self._store.write(name_of_deal(deal.number), json.dumps(report).encode())
        return report

    def answer(self, part: Part) -> tuple[int, int]:
        """Answer a part, unless that was done: the numbers of its users and events."""
        tables = []
        for name, digest in sorted(part.digests.items()):
            content = self._store.read(f"{EVENTS}/{name}")
            if content is None or hashlib.sha256(content).hexdigest() != digest:
                place = self._store.place
                raise DataError(f"{place} is damaged: its events are not as written. Remove it, then start again.")
            tables.append(pa.ipc.open_file(content).read_all())
        found = part_of(pa.concat_tables(tables) if tables else None)
        done = self._store.read(part_file(part.number))
        if done is None or not is_answered(io.BytesIO(done), part.number):
            answers = recommend_part(self._recommender(), found, part.settings, self._filter)
            self._store.write(part_file(part.number), part_bytes(answers, part.number))
        return len(found.users), found.events
