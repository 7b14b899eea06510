"""The protocol that every ranker follows.

A ranker of your own: subclass :class:`Ranker`, give it a ``kind``, :meth:`~Ranker.score`, the three methods that
follow changes of the catalog, and the two that save and load; then register it
(:func:`tiger.rankers.auto.register_ranker`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import torch

from tiger.data.sequences import Sequences
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError


class SearchMemory(Protocol):
    """The memory of a search, as a ranker reads it; see :class:`tiger.retriever.memory.ItemMemory`."""

    def mass_of(self, histories: Sequences, rows: np.ndarray) -> np.ndarray:
        """Mass of items (int [n, C], -1: none) by each route from n histories: float32 [n, C, routes]."""
        ...

    def parts(self, histories: Sequences, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Parts of the scores [n, C] of a search's answers: float32 [n, C, routes + 2]."""
        ...


class Ranker(Protocol):
    """Orders candidates after a history, over one catalog.

    The catalog changes by :meth:`add_items`, :meth:`update_items` and :meth:`keep_items`. A recommender calls them on
    ``copy.copy`` of its ranker, which takes over only if the whole update succeeds: they must replace arrays, never
    write into them.

    Attributes:
        kind: the name under which it is registered and saved.
        reads_items: whether loading it takes the item table.
        proposes_items: whether its answers may hold items that were not among the beams.
        reads_times: whether its answers depend on the times of events.
        reads_memory: True: it orders searches with a memory alone, and :meth:`order` is given ``memory``, a
            :class:`SearchMemory`; False: searches without one alone; None: as ``learned_with_memory`` says.
        learned_with_memory: whether the scores that it learned from were of searches with a memory: those of others
            are refused; None: it reads none, or that is not known.
    """

    kind: ClassVar[str]
    reads_items: ClassVar[bool] = False
    proposes_items: ClassVar[bool] = False
    reads_times: ClassVar[bool] = False
    reads_memory: bool | None = None
    learned_with_memory: bool | None = None

    def __len__(self) -> int:
        """Items of the catalog."""
        ...

    @property
    def learned_from(self) -> str:
        """The part of the split whose targets it was fitted to, ``train`` or ``valid``; it isn't measured there."""
        return "train"

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the semantic IDs that it was made with; None: it works with any."""
        return None

    def score(self, histories: list[np.ndarray], candidates: np.ndarray) -> np.ndarray:
        """Score candidates.

        Args:
            histories: rows of items, oldest first, one array per user.
            candidates: int [users, C], rows; -1: none.

        Returns:
            float32 [users, C], higher is better; ``-inf`` where there is no candidate.
        """
        ...

    def score_sequences(self, histories: Sequences, candidates: np.ndarray) -> np.ndarray:
        """Score candidates after histories with times; by default :meth:`score`, which reads none."""
        return self.score(list(histories), candidates)

    def order(
        self,
        histories: Sequences,
        beams: np.ndarray,
        scores: np.ndarray,
        k: int,
        exclude_history: bool = True,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the ``k`` best candidates; by default those of the beams with the best :meth:`score`.

        Args:
            histories: n sequences of item rows.
            beams, scores: [n, K], the T5's proposals, -1 where there are no more, and their log-probabilities.
            exclude_history: leave out items of the history. The beams hold none of them.
            allowed: int [m], the only rows that may be returned; None: all. The beams hold no others.

        Returns:
            rows int64 [n, k], the T5's log-probabilities float32 [n, k] (``-inf``: not among its beams), and the
            ranker's scores float32 [n, k]; -1 and ``-inf`` where there are no more candidates.
        """
        return best_first(self.score(list(histories), beams), beams, scores, k)

    def add_items(self, tokenizer: SemanticIdTokenizer, items: pa.Table | None, vectors: np.ndarray) -> None:
        """Append the items that the tokenizer has beyond :meth:`__len__`.

        Args:
            tokenizer, items: of the whole new catalog.
            vectors: float [new items, D], the encoder's, of the new items alone.
        """
        ...

    def update_items(
        self, rows: np.ndarray, tokenizer: SemanticIdTokenizer, items: pa.Table | None, vectors: np.ndarray
    ) -> None:
        """Read new texts, codes and vectors (float [m, D]) of the items at ``rows`` (int [m])."""
        ...

    def keep_items(self, rows: np.ndarray) -> None:
        """Remove all items but those at ``rows`` (int [m], ascending)."""
        ...

    def to(self, device: str | torch.device) -> None:
        """Compute on another device from now on, where the ranker has a choice."""
        return None

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write files into a directory, in formats that run no code when they are read (JSON, safetensors)."""
        ...

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        tokenizer: SemanticIdTokenizer,
        items: pa.Table | None = None,
        device: str | torch.device = "cpu",
    ) -> Any:
        """Read what :meth:`save_pretrained` wrote, over the same catalog.

        Args:
            tokenizer: the catalog's.
            items: its table, where it has one.
            device: where the ranker computes, if it has a choice.

        Raises:
            DataError: damaged, of another version, or made for another catalog.
        """
        ...

    def digest(self) -> bytes:
        """Bytes that differ between rankers with different answers; by default a hash of what is saved."""
        found = hashlib.sha256()
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                found.update(file.read_bytes())
        return found.digest()


def reads_memory(ranker: Ranker, has_memory: bool) -> bool:
    """Whether a ranker is given the memory of a search.

    Raises:
        DataError: it learned from searches with a memory, and this one has none, or the reverse.
    """
    wanted = getattr(ranker, "reads_memory", None)  # rankers of others may not have these attributes
    learned = getattr(ranker, "learned_with_memory", None) if wanted is None else wanted
    if learned is None or learned == has_memory:
        return bool(wanted)
    raise DataError(
        "this ranker learned from searches without a memory: search with memory=False (--no_memory), or train it "
        "again."
        if has_memory
        else "this ranker learned from searches with a memory, and this one has none: give rank=False (--no_rank) as "
        "well."
    )


def best_first(
    ranking: np.ndarray, rows: np.ndarray, log_probs: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ``k`` candidates with the highest ``ranking``, equal ones in the order given.

    Args:
        ranking: float [n, C], what decides.
        rows, log_probs: [n, C] of the candidates.

    Returns:
        rows int64, log_probs and ranking [n, k]; -1 and ``-inf`` where there are fewer candidates.
    """
    order = np.argsort(-ranking, axis=1, kind="stable")[:, :k]
    missing = ((0, 0), (0, k - order.shape[1]))
    rows, log_probs, ranking = (
        np.pad(np.take_along_axis(values, order, axis=1), missing, constant_values=fill)
        for values, fill in ((rows, -1), (log_probs, -np.inf), (ranking, -np.inf))
    )
    return np.where(np.isneginf(ranking), -1, rows).astype(np.int64), log_probs, ranking
