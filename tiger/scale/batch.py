"""Recommendations for all users of a log, by workers on many machines: the same file as that of one process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from tiger.data.parquet import opened_parquet, row_group_sizes
from tiger.data.readers import EVENT_COLUMNS, check_columns
from tiger.scale.batch_worker import BatchWorker, Deal, Part, WorkerSettings, name_of_deal
from tiger.scale.pool import WorkerPool
from tiger.scale.session import Cluster, session
from tiger.serving.answer_parts import counts_of_finished, part_file, put_together, read_answers
from tiger.serving.log_parts import num_parts
from tiger.serving.model_source import ModelSource
from tiger.serving.offline import SETTINGS, check_run, check_same_run, parts_of, run_settings
from tiger.serving.run_identity import log_identity, saved_identity
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError
from tiger.utils.locks import locked
from tiger.utils.stores import Store, absolute, is_url, open_store, read_object, store_of

PLAN = "plan.json"
# Events that a worker deals out at a time, and the most of such pieces, for each makes a file for each part.
DEAL_EVENTS, MAX_DEALS = 1_000_000, 100


@dataclass(frozen=True)
class BatchJob:
    """A log, a recommender and how to recommend.

    Args:
        model: directory of the recommender, the same on each machine, or its name on the Hub.
        histories: a log, as for :func:`tiger.serving.offline.recommend_users`: a path that all machines have, or a
            URL of fsspec.
        out: the parquet file to write, likewise.
        revision: branch, tag or commit on the Hub.
        filter: what may be recommended, in words; None: everything.
        part_events, bf16, options: as for :func:`tiger.serving.offline.recommend_users`.
        device: of the workers; where they have GPUs, see :meth:`tiger.scale.session.Cluster.device`.
    """

    model: str
    histories: str
    out: str
    revision: str | None = None
    filter: str | None = None
    part_events: int = 20_000
    bf16: bool = True
    device: str = "cpu"
    options: dict[str, Any] = field(default_factory=dict)


def recommend_on_ray(job: BatchJob, cluster: Cluster = Cluster(), progress: bool = False) -> dict[str, int]:
    """Recommend for every user of a log. What was done stays where workers, or this process, are lost; the same call
    goes on from there and gives the same file, byte for byte, as :func:`tiger.serving.offline.recommend_users` with
    the identity of the directory.

    Returns:
        ``events``, ``users`` and ``unknown_events``.

    Raises:
        DataError: as :func:`tiger.serving.offline.recommend_users`, or there is no such cluster, or it has too few
            cores.
    """
    job = BatchJob(**(asdict(job) | {name: absolute(getattr(job, name)) for name in ("histories", "out")}))
    on_disk = not is_url(job.out)
    check_run(Path(job.out) if on_disk else None, job.part_events, job.options)
    log, groups = _log(job.histories)
    folder = ModelSource(job.model, job.revision).folder()
    identity = saved_identity(folder)
    model = str(folder.resolve()) if Path(job.model).exists() else job.model
    held = locked(Path(job.out), wait=0) if on_disk else nullcontext()
    with disk_errors(job.out), held:
        store, name = store_of(job.out)
        settings = run_settings(log, identity, job.part_events, job.bf16, None, job.options)
        if job.filter is None and store.size(name) is not None:
            return _finished(store, name, settings, job)
        worker = WorkerSettings(
            model, job.revision, identity, job.histories, parts_of(job.out), cluster.device(job.device), job.filter
        )
        with session(cluster) as ray, WorkerPool(ray, cluster, BatchWorker, worker, cluster.cpus) as pool:
            if job.filter is not None:
                ((_, digest),) = pool.run("filter_digest", [0])
                settings = run_settings(log, identity, job.part_events, job.bf16, digest, job.options)
                if store.size(name) is not None:
                    return _finished(store, name, settings, job)
            return _Run(job, settings, pool, open_store(parts_of(job.out))).finish(groups, progress)


def _log(place: str) -> tuple[dict, list[int]]:
    """Identity of a log, and the numbers of events of its row groups.

    Raises:
        DataError: it is missing, no parquet file, or lacks a column.
    """
    store, name = store_of(place)
    size = store.size(name)
    if not size:
        raise DataError(f"{place} is {'missing' if size is None else 'empty (0 bytes)'}: give a log in parquet.")
    with opened_parquet(place) as opened:
        check_columns(opened.schema_arrow, EVENT_COLUMNS, place)
        groups = row_group_sizes(opened)
    if not is_url(place):
        return log_identity(Path(place)), groups
    return {"file": name, "bytes": size, "changed": None, "events": sum(groups)}, groups


def _finished(store: Store, name: str, settings: dict, job: BatchJob) -> dict[str, int]:
    with store.open(name) as file:
        counts = counts_of_finished(file, settings, job.out)
    open_store(parts_of(job.out)).remove()
    return counts


class _Run:
    """One run: deals the log out, has the parts answered, puts them together."""

    def __init__(self, job: BatchJob, settings: dict[str, Any], pool: WorkerPool, store: Store):
        self._job, self._settings, self._pool, self._store = job, settings, pool, store
        self._parts = num_parts(settings["log"]["events"], job.part_events)

    def finish(self, groups: list[int], progress: bool) -> dict[str, int]:
        found = self._dealt(groups)
        digests: dict[int, dict[str, str]] = {}
        for name, digest in found["events_sha256"].items():
            digests.setdefault(int(name.split("/")[0].removeprefix("part=")), {})[name] = digest
        counts = {"events": self._settings["log"]["events"], "users": 0, "unknown_events": found["unknown_events"]}
        tasks = [Part(number, self._settings, digests.get(number, {})) for number in range(self._parts)]
        events = 0
        with tqdm(total=counts["events"], desc="recommending", unit="event", disable=not progress) as bar:
            for _, (users, seen) in self._pool.run("answer", tasks):
                counts["users"] += users
                events += seen
                bar.set_postfix(users=counts["users"], refresh=False)
                bar.update(seen)
        if events != counts["events"]:
            place = self._store.place
            raise DataError(f"{place} holds {events} of {counts['events']} events: remove it, then start again.")
        self._join(self._settings | {"counts": counts})
        return counts

    def _dealt(self, groups: list[int]) -> dict[str, Any]:
        """Deal the log out, unless that was done: the number of unknown events, and digests of the files."""
        done = read_object(self._store, SETTINGS)
        if done is not None:
            found = {name: done.pop(name, None) for name in ("unknown_events", "events_sha256")}
            check_same_run(done, self._settings, self._store.place)
            if isinstance(found["unknown_events"], int) and isinstance(found["events_sha256"], dict):
                return found
        plan = read_object(self._store, PLAN)
        if plan is None:
            self._store.remove()
            self._store.write(PLAN, json.dumps(self._settings).encode())
        else:
            check_same_run(plan, self._settings, self._store.place)
        deals = _deals(groups, self._parts)
        reports = [read_object(self._store, name_of_deal(deal.number)) for deal in deals]
        for deal, report in self._pool.run("deal", [deal for deal, report in zip(deals, reports) if report is None]):
            reports[deal.number] = report
        found = {"unknown_events": 0, "events_sha256": {}}
        for report in filter(None, reports):
            found["unknown_events"] += report["unknown_events"]
            found["events_sha256"] |= report["events_sha256"]
        # Written last: its presence says that the partition is complete. A run of one process may go on from it.
        self._store.write(SETTINGS, (json.dumps(self._settings | found) + "\n").encode())
        return found

    def _join(self, settings: dict[str, Any]) -> None:
        store, name = store_of(self._job.out)

        def tables() -> Iterator:
            for number in range(self._parts):
                with self._store.open(part_file(number)) as file:
                    yield read_answers(file)

        with _scratch(None if is_url(self._job.out) else self._store.place) as scratch:
            put_together(tables(), scratch, settings)
            store.put(name, scratch)
        self._store.remove()


@contextmanager
def _scratch(folder: str | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".whole.") as made:
        yield Path(made) / "whole"


def _deals(groups: list[int], parts: int) -> list[Deal]:
    """Pieces of a log of whole row groups."""
    size = max(DEAL_EVENTS, -(-sum(groups) // MAX_DEALS))
    deals: list[Deal] = []
    start, piece, events = 0, [], 0
    for number, count in enumerate(groups):
        piece.append(number)
        events += count
        if events >= size or number == len(groups) - 1:
            deals.append(Deal(len(deals), piece, start, parts))
            start, piece, events = start + events, [], 0
    return deals
