"""A recommender whose catalog can be updated while it answers.

An update changes a copy, which then replaces the recommender. So a batch of requests sees one catalog from start to
end, and updates don't wait for batches.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tiger.recommender.filters import Filter
from tiger.recommender.recommender import TigerRecommender
from tiger.serving.model_source import LoadedModel, ModelSource, manifest_digest, read_manifest_bytes
from tiger.utils import devices
from tiger.utils.disk import DiskError
from tiger.utils.errors import DataError
from tiger.utils.locks import locked
from tiger.utils.model_files import check_finite

LOCK_SECONDS = 10.0  # that an update waits for another process that writes the directory; not tuned


class UnknownItems(DataError):
    """Items that the catalog lacks."""

    def __init__(self, item_ids: Sequence[str]):
        names = ", ".join(map(repr, item_ids[:5])) + (", ..." if len(item_ids) > 5 else "")
        super().__init__(f"items that the catalog lacks: {names}.")


class SaveConflict(DataError):
    """The directory that updates are written to holds another process's update, or is being written."""


class ReloadFailed(DataError):
    """The model could not be loaded again; that of before still answers."""


@dataclass(frozen=True)
class Snapshot:
    """A recommender that is not changed any more.

    Args:
        catalogue: number of updates before it; a reload counts as one.
        model: digest of the ``tiger.json`` that was read or written last.
        cannot_add: why items can't be added; None: they can.
        unsaved: number of updates that are in no directory.
    """

    recommender: TigerRecommender
    catalogue: int
    model: str = ""
    cannot_add: str | None = None
    unsaved: int = 0


@dataclass(frozen=True)
class Update:
    """Result of an update.

    Args:
        items: number of items in the catalog now.
        catalogue: number of updates so far.
        added, known, removed: item ids; ``known`` were to be added and in the catalog already.
    """

    items: int
    catalogue: int
    added: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reloaded:
    """Result of a reload.

    Args:
        model, previous: digests of the model now and of that before.
        items: number of items in the catalog now.
        catalogue: number of updates so far, this one among them.
        lost: number of updates that the directory did not hold and that are gone.
    """

    model: str
    previous: str
    items: int
    catalogue: int
    lost: int


class LiveRecommender:
    """Holds the current recommender and makes updates.

    Args:
        recommender: must not be changed by anything else from now on.
        save: directory to which each update is written before it takes effect; None: updates stay in memory. What
            another process writes there afterwards is not overwritten. What is there now counts as read: hold its
            lock (:func:`tiger.utils.locks.locked`) from reading the recommender until this object exists.
        source: where it comes from, for :meth:`reload`; None: it can't be loaded again.
        manifest: of the directory that it was read from.
        updatable: whether items will be added, so that the text encoder is loaded now.
        prepare: called with a recommender that was loaded, before it answers; by default nothing is.
        bf16: whether it answers in bfloat16, so that nothing is made in float32 that no request reads.

    Raises:
        DataError: the model's scores are not finite.
    """

    def __init__(
        self,
        recommender: TigerRecommender,
        save: Path | None = None,
        *,
        source: ModelSource | None = None,
        manifest: bytes | None = None,
        updatable: bool = False,
        prepare: Callable[[TigerRecommender], object] | None = None,
        bf16: bool | None = False,
    ):
        self._bf16 = bf16
        self.behind: str | None = None  # why updates of others can't be followed
        # Not at updates: all that these add is weights of new tokens, which are like those of the others.
        check_finite(recommender.model, "the service does not start")
        self._warm(recommender)
        self._prepare = prepare
        if prepare is not None:
            prepare(recommender)
        self._save, self._source, self._updatable = save, source, updatable
        self._saved = None if save is None else read_manifest_bytes(save)
        manifest = manifest or self._saved
        model = f"unsaved-{recommender.tokenizer.fingerprint}" if manifest is None else manifest_digest(manifest)
        self.now = Snapshot(recommender, 0, model, self._cannot_add(recommender))
        self._updating = threading.Lock()

    def _warm(self, recommender: TigerRecommender) -> None:
        with devices.products_in(recommender.device, self._bf16):
            _warm(recommender)

    def _cannot_add(self, recommender: TigerRecommender) -> str | None:
        return why_cannot_add(recommender) if self._updatable else "the service is read-only"

    def reload(self) -> Reloaded:
        """Load the model again from where it came, and let it answer if it can; batches that run already are not
        disturbed. Both models are in memory meanwhile.

        Raises:
            ReloadFailed: it can't be read, or a trial of it fails; that of before still answers.
        """
        with self._updating:
            before = self.now
            try:
                loaded = self._load()
            except Exception as error:  # out of memory, a bug in a third party's ranker: nothing may stop the service
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ReloadFailed(f"the model was not reloaded, {before.model} still answers: {reason}") from error
            recommender, updates = loaded.recommender, before.catalogue + 1
            named = recommender.state.filters.with_named(before.recommender.filters)
            recommender.state = replace(recommender.state, filters=named)
            self.now = Snapshot(recommender, updates, loaded.digest, self._cannot_add(recommender))
            if self._save is not None:
                self._saved = loaded.manifest
            torch.clear_autocast_cache()
            return Reloaded(loaded.digest, before.model, len(recommender.tokenizer), updates, before.unsaved)

    def _load(self) -> LoadedModel:
        if self._source is None:
            raise DataError("the service was not started from a directory. Restart it.")
        loaded = self._source.load()
        if loaded.recommender.device.type != self.now.recommender.device.type:
            raise DataError(f"it was loaded on {loaded.recommender.device}. Restart the service.")
        check_finite(loaded.recommender.model, self._source.name)
        self._warm(loaded.recommender)
        if self._prepare is not None:
            self._prepare(loaded.recommender)
        return loaded

    def add(self, item_ids: Sequence[str], texts: Sequence[str]) -> Update:
        """Add items, see :meth:`TigerRecommender.add_items`: all of them or, on an error, none."""
        with self._updating:
            rows = self.now.recommender.tokenizer.rows(item_ids, missing=-1)
            known = [item for item, row in zip(item_ids, rows) if row >= 0]
            added = [item for item, row in zip(item_ids, rows) if row < 0]
            if added:
                successor = copy.copy(self.now.recommender)
                self._follow(successor, self._add_to(successor, item_ids, texts))
            return Update(len(self.now.recommender.tokenizer), self.now.catalogue, added=added, known=known)

    def remove(self, item_id: str) -> Update:
        """Remove an item.

        Raises:
            UnknownItems: the item is unknown.
            DataError: it is the last item.
        """
        with self._updating:
            if unknown := unknown_items(self.now.recommender, [item_id]):
                raise UnknownItems(unknown)
            successor = copy.copy(self.now.recommender)
            successor.remove_items([item_id])
            self._follow(successor, {"kind": "remove", "item_ids": [item_id]})
            return Update(len(self.now.recommender.tokenizer), self.now.catalogue, removed=[item_id])

    def add_filter(self, name: str, filter: Filter) -> int:
        """Let requests name a filter from the next batch on, see :meth:`TigerRecommender.add_filter`; it stays when
        the catalog is updated or the model reloaded.

        Returns:
            Number of items that it allows now.
        """
        with self._updating:
            successor = copy.copy(self.now.recommender)
            compiled = successor.add_filter(name, filter)
            self.now = replace(self.now, recommender=successor)
            return compiled.count

    def _add_to(self, successor: TigerRecommender, item_ids: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
        """Add items to a successor; a record of that, for who keeps one."""
        successor.add_items(item_ids, texts)
        return {"kind": "add"}

    @contextmanager
    def following(self) -> Iterator[None]:
        """Work beside the answers while the service runs: here, none."""
        yield

    def _follow(self, successor: TigerRecommender, change: dict[str, Any]) -> None:
        self._warm(successor)
        if self._save is not None:
            self._write(self._save, successor)
        self._serve(successor)

    def _serve(self, successor: TigerRecommender) -> None:
        """Let a successor answer."""
        model, unsaved = self.now.model, self.now.unsaved + 1
        if self._saved is not None:
            model, unsaved = manifest_digest(self._saved), 0
        self.now = Snapshot(successor, self.now.catalogue + 1, model, self.now.cannot_add, unsaved)
        torch.clear_autocast_cache()  # it may keep the predecessor's weights in memory

    def _write(self, folder: Path, successor: TigerRecommender) -> None:
        try:
            with locked(folder, wait=LOCK_SECONDS):
                if read_manifest_bytes(folder) != self._saved:
                    raise SaveConflict(
                        f"{folder} was changed by another process since this service read or wrote it: reload the "
                        "model (POST /models/reload) or restart the service to serve what is there, then repeat the "
                        "update."
                    )
                successor.save_pretrained(folder)
                self._saved = read_manifest_bytes(folder)
        except (SaveConflict, DiskError):
            raise
        except DataError as error:
            raise SaveConflict(str(error)) from error


def why_cannot_add(recommender: TigerRecommender) -> str | None:
    """Load the encoder before the first request; the reason if items can't be added."""
    if recommender.encoder is None:
        return "this recommender was saved without a text encoder, so it can't embed new items"
    if recommender.tokenizer.quantizer is None:
        return "this recommender was saved without a quantizer, so it can't assign semantic IDs to new items"
    try:
        recommender.encoder.load()
    except DataError as error:
        print(f"warning: items can't be added: {error}", file=sys.stderr)
        return "the text encoder could not be loaded when the service started: its log says why"
    return None


def _warm(recommender: TigerRecommender) -> None:
    """Create what is created on first use, so that no request waits for it and no two threads create it; and look
    whether the scores can be served.

    Raises:
        DataError: scores are NaN or infinite, or an answer is no item of the catalog.
    """
    item_ids = recommender.tokenizer.item_ids
    histories = [item_ids[:1], [], item_ids[-5:]]
    k = min(10, len(item_ids))
    for rank in {False, recommender.ranker is not None}:
        items, scores = recommender.recommend(histories, k=k, num_beams=k, rank=rank, exclude_history=False)
        if not all(all_finite(values[: len(found)]) for found, values in zip(items, scores)):
            raise DataError(
                f"the {'ranker' if rank else 'model'} scores items NaN or infinite: its weights are damaged or its "
                "training diverged. Train it again."
            )
        answered = [item for found in items for item in found]
        if not answered or (recommender.tokenizer.rows(answered, missing=-1) < 0).any():
            raise DataError("the model answers what its catalog does not hold. Save it again.")


def all_finite(scores: Sequence[float] | np.ndarray) -> bool:
    """Whether no score is NaN or infinite."""
    return bool(np.isfinite(scores).all())


def unknown_items(recommender: TigerRecommender, item_ids: list[str]) -> list[str]:
    """Items that the catalog lacks, each once, in their order."""
    rows = recommender.tokenizer.rows(item_ids, missing=-1)
    return list(dict.fromkeys(item_ids[place] for place in np.flatnonzero(rows < 0)))
