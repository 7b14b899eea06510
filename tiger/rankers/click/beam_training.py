"""Training a beam head on the beams of a search that has not seen their targets."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from tiger.evaluation.metrics import ndcg_at_k
from tiger.rankers.base import best_first
from tiger.rankers.click.beam_head import BeamHead
from tiger.rankers.click.ranker import ClickRanker
from tiger.utils.errors import DataError

HELD_OUT = 0.2  # share of the users on whom the number of epochs is chosen
_LISTS = 64  # of a step; not tuned


@dataclass(frozen=True)
class BeamLists:
    """Beams, their inputs, and the items that came.

    Args:
        beams: int [n, K], rows of items, -1 where there are no more.
        scores: float [n, K], of the search.
        inputs: float32 [n, K, inputs], from :meth:`tiger.rankers.click.ranker.ClickRanker.inputs`.
        targets: int [n], rows of the next items.
    """

    beams: np.ndarray
    scores: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, rows: np.ndarray) -> BeamLists:
        """Return some of the lists."""
        return BeamLists(self.beams[rows], self.scores[rows], self.inputs[rows], self.targets[rows])

    @property
    def hits(self) -> np.ndarray:
        """int64 [h]: the lists that hold their target."""
        return np.flatnonzero((self.beams == self.targets[:, None]).any(axis=1))


def fit_beam_head(
    ranker: ClickRanker, lists: BeamLists, epochs: int = 15, learning_rate: float = 1e-3, seed: int = 0
) -> dict[str, Any]:
    """Train a ranker's beam head: softmax over each list's beams, the next item being the right one.

    A fifth of the lists is held out, and the number of epochs is the one with the best NDCG@10 there, 0 among them:
    that is the search's order. Then the head is trained for so many on all of them.

    Args:
        ranker: with a beam head; the rest of it stays as it is.
        lists: of next items that neither the search nor the ranker has seen. Those without their target teach nothing.
        epochs: at most.
        learning_rate: of AdamW, falling linearly to 0 at ``epochs``.
        seed: of the split, the batches and the dropout.

    Returns:
        A record: ``lists``, ``with the target``, ``epochs`` and ``held out ndcg@10``, one value for each number of
        epochs from 0.

    Raises:
        DataError: no list holds its target.
    """
    assert ranker.ranker.beam_head is not None
    hits = lists.hits
    if not len(hits):
        raise DataError("no validation item is among its beams: there is nothing to learn from; leave negatives out.")
    with torch.random.fork_rng():  # dropout draws from it; the caller's random state stays as it is
        best, found = _fitted(ranker, lists, epochs, learning_rate, seed)
    ranker.ranker.config.learned_from = "valid"
    return {
        "lists": len(lists),
        "with the target": len(hits),
        "epochs": best,
        "held out ndcg@10": [round(float(value), 5) for value in found],
    }


def _fitted(
    ranker: ClickRanker, lists: BeamLists, epochs: int, learning_rate: float, seed: int
) -> tuple[int, list[float]]:
    """The best number of epochs, for which the head is trained, and NDCG@10 of the lists held out after each."""
    head, hits = ranker.ranker.beam_head, lists.hits
    assert head is not None
    kept, held = held_out(len(lists), seed)
    device, start = head.weight.device, copy.deepcopy(head.state_dict())
    first = _Fit(head, lists.select(np.intersect1d(hits, kept)), epochs, learning_rate, seed)
    unseen, found = lists.select(np.intersect1d(hits, held)), []
    for epoch in range(epochs + 1):
        if epoch:
            first.run(epoch - 1)
        rows, _, _ = best_first(ranker.score_beams(unseen.inputs, unseen.beams), unseen.beams, unseen.scores, 10)
        gained = ndcg_at_k(rows, unseen.targets, 10) * len(unseen) if len(unseen) else 0.0
        found.append(gained / max(len(held), 1))
    best = int(np.argmax(found))
    head.load_state_dict(start)
    if best:
        fit = _Fit(head, lists.select(hits), epochs, learning_rate, seed)
        for epoch in range(best):
            fit.run(epoch)
    head.eval().to(device)
    return best, found


def held_out(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """int64: the lists to learn from, and those held out."""
    held = np.random.default_rng(seed).random(count) < HELD_OUT
    return np.flatnonzero(~held), np.flatnonzero(held)


class _Fit:
    """Epochs of a head over lists that hold their targets."""

    def __init__(self, head: BeamHead, lists: BeamLists, epochs: int, learning_rate: float, seed: int):
        device = head.weight.device
        self._head, self._random, self._epochs, self._rate = head, np.random.default_rng(seed), epochs, learning_rate
        self._inputs = torch.from_numpy(lists.inputs).to(device)
        self._there = torch.from_numpy(lists.beams >= 0).to(device)
        self._right = torch.from_numpy((lists.beams == lists.targets[:, None]).argmax(axis=1)).to(device)
        if len(lists):
            head.measure(self._inputs[self._there])
        torch.manual_seed(seed)
        self._optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=0.01)

    def run(self, epoch: int) -> None:
        """One pass over the lists; the head is in evaluation mode after it."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * (1 - epoch / self._epochs)
        self._head.train()
        order = torch.from_numpy(self._random.permutation(len(self._right)))
        for some in order.split(_LISTS):
            scores = self._head(self._inputs[some]).masked_fill(~self._there[some], -1e4)
            loss = F.cross_entropy(scores, self._right[some])
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        self._head.eval()
