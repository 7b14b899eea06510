"""A live recommender that is one of several: each replays the updates of one log, whoever has made them."""

from __future__ import annotations

import base64
import copy
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tiger.recommender.recommender import TigerRecommender
from tiger.serving.live import LiveRecommender, Reloaded, ReloadFailed, SaveConflict, Update
from tiger.serving.update_log import UpdateLog
from tiger.utils.errors import DataError

logger = logging.getLogger("tiger.serving")
POLL_SECONDS = 0.5  # between two looks at the log: an update is everywhere within two seconds
ATTEMPTS = 20  # to get the next number of the log, while others are faster


class Outrun(Exception):
    """Another service's update has the number that this one wanted."""


class ReplicatedRecommender(LiveRecommender):
    """An update is tried here, then appended to the log, and confirmed when it is durable there; then it answers.

    The number of updates of a snapshot is the number of the log's last update in it: two services that say the same
    number have the same catalog.

    Args:
        recommender: as it was saved, without updates; must not be changed by anything else from now on.
        log: of that recommender. What it holds is replayed before this object exists.
        options: of :class:`LiveRecommender`, without ``save``.

    Raises:
        DataError: the log is another recommender's or damaged, or an update gives other semantic IDs here than where
            it was made.
    """

    def __init__(self, recommender: TigerRecommender, log: UpdateLog, **options: Any):
        super().__init__(recommender, None, **options)
        self._log = log
        log.begin(self.now.model)
        self.catch_up()

    def catch_up(self) -> int:
        """Replay what the log holds beyond this recommender; the number of updates.

        Raises:
            DataError: one is damaged, or can't be made here.
        """
        with self._updating:
            before = self.now.catalogue
            while (entry := self._log.read(self.now.catalogue + 1)) is not None:
                successor = copy.copy(self.now.recommender)
                _replay(successor, entry, f"{self._log.place}, update {self.now.catalogue + 1}")
                self._warm(successor)
                self._serve(successor)
            return self.now.catalogue - before

    def add(self, item_ids: Sequence[str], texts: Sequence[str]) -> Update:
        return self._until_first(lambda: super(ReplicatedRecommender, self).add(item_ids, texts))

    def remove(self, item_id: str) -> Update:
        return self._until_first(lambda: super(ReplicatedRecommender, self).remove(item_id))

    def reload(self) -> Reloaded:
        """Refuse: a model that is loaded anew begins another log.

        Raises:
            ReloadFailed: always.
        """
        raise ReloadFailed("replicas don't reload a model: start the service on the new one, with a log of its own")

    @contextmanager
    def following(self) -> Iterator[None]:
        """Look at the log again and again, in a thread, while the service runs."""
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(POLL_SECONDS):
                try:
                    self.catch_up()
                    self.behind = None
                except Exception as error:  # storage that fails for a while: the next look may be better
                    reason = " ".join(str(error).split()) or type(error).__name__
                    if reason != self.behind:
                        logger.error("updates are not followed: %s", reason)
                    self.behind = reason

        thread = threading.Thread(target=follow, name="follow", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(5.0)

    def _until_first(self, change: Callable[[], Update]) -> Update:
        for _ in range(ATTEMPTS):
            self.catch_up()
            try:
                return change()
            except Outrun:
                continue
        raise SaveConflict(f"other services' updates came first, {ATTEMPTS} times: try again.")

    def _add_to(self, successor: TigerRecommender, item_ids: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
        """Add items; the record has their vectors, so that no other service need compute them, perhaps a bit
        otherwise."""
        new = np.flatnonzero(successor.tokenizer.rows(item_ids, missing=-1) < 0)
        ids, written = [item_ids[row] for row in new.tolist()], [texts[row] for row in new.tolist()]
        vectors = successor.embed_items(ids, written)
        successor.add_items(ids, written, embeddings=vectors)
        return {
            "kind": "add",
            "item_ids": ids,
            "texts": written,
            "vectors": base64.b64encode(vectors.astype("<f4").tobytes()).decode(),
            "semantic_ids": _ids_of(successor, ids),
        }

    def _follow(self, successor: TigerRecommender, change: dict[str, Any]) -> None:
        self._warm(successor)
        if not self._log.append(self.now.catalogue + 1, change):
            raise Outrun
        self._serve(successor)


def _replay(successor: TigerRecommender, entry: dict[str, Any], name: str) -> None:
    """Make an update of the log.

    Raises:
        DataError: it is damaged, can't be made, or gives other semantic IDs.
    """
    ids = entry["item_ids"]
    if entry["kind"] == "remove":
        try:
            successor.remove_items(ids)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        return
    try:
        vectors = np.frombuffer(base64.b64decode(entry["vectors"], validate=True), "<f4").reshape(len(ids), -1)
        successor.add_items(ids, entry["texts"], embeddings=vectors.astype(np.float32))
    except (ValueError, TypeError, KeyError) as error:  # a DataError is a ValueError
        raise DataError(f"{name}: {error}") from error
    if _ids_of(successor, ids) != entry.get("semantic_ids"):
        raise DataError(f"{name} gives other semantic IDs here than where it was made: the services' models differ.")


def _ids_of(recommender: TigerRecommender, item_ids: Sequence[str]) -> list[list[int]]:
    tokenizer = recommender.tokenizer
    return tokenizer.semantic_ids[tokenizer.rows(item_ids)].tolist()
