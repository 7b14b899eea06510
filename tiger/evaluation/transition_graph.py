"""The transition-graph heuristics TGH-1 and TGH-2 (Han et al., arXiv 2605.07125): training-free baselines.

An edge leads from each item to each that came right after it in a training history. Rings around a source, an item of
the history, hold the items that are one, two and three edges away. A ring's items are ordered by the cosine of their
vectors to the source's; in the first ring half of log(1 + count) of the edge is added, relative to the source's
largest. TGH-1 takes seven, two and one of the rings around the last item; TGH-2 takes five and one around the last,
then three and one around the item before. Where a ring holds fewer, items left over from rings before it take the
places. The paper fills what is then left at random, here popular items do; it keeps items of the history, here that
is a choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import sparse

from tiger.data.cooccurrence import follower_counts
from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut
from tiger.evaluation.baselines import Popularity
from tiger.evaluation.evaluator import NextItemEvaluation, evaluate, metrics_only

# Places of each ring around each source, the newest first, as in the paper; ten in all.
TGH_1 = ((7, 2, 1),)
TGH_2 = ((5, 1), (3, 1))
EDGE_WEIGHT = 0.5  # as in the paper
_SCORES_AT_ONCE = 1 << 24  # 64 MiB in float32, and as much for each of a few steps


class TransitionGraph:
    """Items that few edges lead to from the last item, by the similarity of their vectors to it.

    Args:
        sources: places of each ring, around the last item, the one before it, and so on.
        edge_weight: factor of the count of an edge in the first ring.
        seed: of the random order that breaks ties among popular items.
    """

    def __init__(self, sources: tuple[tuple[int, ...], ...] = TGH_1, edge_weight: float = EDGE_WEIGHT, seed: int = 0):
        self.sources, self.edge_weight, self.seed = sources, edge_weight, seed

    def fit(self, train: Sequences, vectors: np.ndarray) -> TransitionGraph:
        """Count edges in the training log.

        Args:
            vectors: float [items, D], content vectors, of any length.
        """
        self.popularity = Popularity(self.seed).fit(train, len(vectors))
        # All that follows lies in popularity's order: no order of item rows breaks a tie.
        order = self.popularity.order
        self.vectors = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))[order]
        counts = follower_counts(train, len(vectors), max_gap=1)[order][:, order]
        self.edges = (counts > 0).astype(np.float32)
        weights = counts.log1p()
        largest = np.maximum(weights.max(axis=1).toarray().ravel(), 1e-12)
        self.weights = (sparse.diags_array(self.edge_weight / largest) @ weights).tocsr()
        return self

    def recommend(
        self, histories: Sequences, k: int = 10, exclude_history: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``Popularity.recommend``; scores fall by one a place, as those of different rings don't compare."""
        place, order = self.popularity.place, self.popularity.order
        items = np.full((len(histories), k), -1, dtype=np.int32)
        for users, part in histories.in_parts(_SCORES_AT_ONCE // len(order)):
            part = Sequences(part.offsets, place[part.items].astype(np.int32), part.timestamps)
            seen = np.zeros((len(part), len(order)), dtype=bool)
            if exclude_history:
                seen[part.users, part.items] = True
            chosen: list[list[int]] = [[] for _ in range(len(part))]
            spare: list[list[int]] = [[] for _ in range(len(part))]
            for age, places in enumerate(self.sources):
                taken = seen.copy()
                for user, found in enumerate(chosen):
                    taken[user, found] = True
                rings = self._ring_lists(part, age, taken, k)
                for user in range(len(part)):
                    found = _assembled([ring[user][ring[user] >= 0].tolist() for ring in rings], places)
                    chosen[user] += found[: sum(places)]
                    spare[user] += found[sum(places) :]
            for user, found in enumerate(chosen):
                popular = np.flatnonzero(~seen[user][: 2 * k + len(part[user])]).tolist()
                row = list(dict.fromkeys(found + spare[user] + popular))[:k]
                items[users[user], : len(row)] = order[row]
        scores = np.where(items < 0, -np.inf, -np.arange(k, dtype=np.float32))
        return items, scores.astype(np.float32)

    def _ring_lists(self, histories: Sequences, age: int, seen: np.ndarray, k: int) -> list[np.ndarray]:
        """The best items of each ring around the item ``age`` places before the last: int [n, at most k], -1 where it
        has no more; nobody's ring holds ``seen``, bool [n, items]."""
        users = np.flatnonzero(histories.lengths > age)
        source = histories.items[histories.offsets[1:][users] - 1 - age]
        similar = self.vectors[source] @ self.vectors.T
        ones, shape = np.ones(len(users), dtype=np.float32), (len(users), len(self.vectors))
        ring = sparse.csr_matrix((ones, source, np.arange(len(users) + 1)), shape=shape)
        visited, lists = ring.toarray() > 0, []
        for number in range(len(self.sources[age])):
            there = (ring @ self.edges).toarray() > 0
            # An item that follows itself is in its own first ring, as in the paper.
            there = there if number == 0 else there & ~visited
            values = similar + self.weights[source].toarray() if number == 0 else similar
            values = np.where(there & ~seen[users], values, -np.inf)
            best = torch.topk(torch.from_numpy(values), min(k, values.shape[1]), dim=1)
            found = np.full((len(histories), best.indices.shape[1]), -1)
            found[users] = np.where(best.values == -torch.inf, -1, best.indices)
            lists.append(found)
            visited |= there
            ring = sparse.csr_matrix(there.astype(np.float32))
        return lists


def transition_graph_evaluations(
    split: LeaveOneOut,
    vectors: np.ndarray,
    part: str = "test",
    exclude_history: bool = True,
    only: Sequence[str] = (),
) -> dict[str, NextItemEvaluation]:
    """Evaluations of ``tgh-1`` and ``tgh-2``; for the test, of ``tgh-1-with-validation`` too.

    The edges of the last one are those of training and validation events, as in
    :func:`tiger.evaluation.baselines.baseline_evaluations`.

    Args:
        split: from ``RecommendationData.leave_one_out``.
        vectors: content vectors, float [items, D].
        part: ``"test"`` or ``"valid"``.
        exclude_history: whether items of the history are left out.
        only: names of those that are measured; none: all.
    """
    logs = {"tgh-1": (TGH_1, split.train), "tgh-2": (TGH_2, split.train)}
    if part == "test":
        logs["tgh-1-with-validation"] = TGH_1, split.test_histories
    histories, targets = split.part(part)
    found = {}
    for name, (sources, log) in logs.items():
        if only and name not in only:
            continue
        graph = TransitionGraph(sources).fit(log, vectors)
        found[name] = evaluate(graph.recommend, histories, targets, exclude_history=exclude_history)
    return found


evaluate_transition_graphs = metrics_only(transition_graph_evaluations)


def _assembled(rings: list[list[int]], places: tuple[int, ...]) -> list[int]:
    """One user's items: those of each ring in its places, then those that are left over."""
    chosen: list[int] = []
    spare: list[int] = []
    for found, wanted in zip(rings, places):
        filling = spare[: max(0, wanted - len(found))]
        spare, wanted = spare[len(filling) :], wanted - len(filling)
        chosen, spare = chosen + filling + found[:wanted], spare + found[wanted:]
    return chosen + spare
