"""Fit the weights of a memory: a few numbers, from training events that its counts are freed of.

A user's last training event is the target, the events before it the history. Its own traces are taken out of the
tables first: else a memory learns to copy targets that it has counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from tiger.data.cooccurrence import COUNT_FLOOR, NEAR
from tiger.data.sequences import Sequences
from tiger.retriever.memory import AGAIN, AGES, ROUTES, MemoryTables, MemoryWeights

# Not tuned: the loss falls by less than its noise from there on.
_STEPS, _USERS, _RATE = 200, 128, 0.05
_Q = 0.5  # between 0, the likelihood, and 1, the mean error; .7 is as good on Beauty and worse on Toys
_SCORES_AT_ONCE = 1 << 23


@dataclass(frozen=True)
class LeftOut:
    """A batch of users, each without the last event, and what the tables say without it.

    Args:
        users, items, reads: int64 [m], for each pair of a history's item and an item that it reaches: the user's place
            in the batch, the item, and ``route * AGES + age``.
        values: float32 [m].
        targets: int64 [B].
        totals: float32 [B], the targets' totals without the event.
        history: int64 [2, h], the users and the items of their histories.
        repeated: bool [B], whether the target stands in the history as well.
    """

    users: np.ndarray
    items: np.ndarray
    reads: np.ndarray
    values: np.ndarray
    targets: np.ndarray
    totals: np.ndarray
    history: np.ndarray
    repeated: np.ndarray


def leave_last_out(tables: MemoryTables, some: Sequences) -> LeftOut:
    """Take the last event of each of some users, who have two or more, out of the tables that were counted with it.

    The result is what tables of a log without the user's last event say, up to entries that ``width`` left out.
    """
    targets = some.items[some.offsets[1:] - 1].astype(np.int64)
    before = some.drop_last(1).keep_last(AGES)
    users, items, ages = before.users, before.items.astype(np.int64), before.ages
    events = np.arange(len(items))
    size = len(tables)
    one = sparse.csr_matrix((np.ones(len(items), np.float32), (events, items)), shape=(len(items), size))
    target = targets[users]
    # The event was counted as a follower of the three before it; of an item that is there twice, by both.
    step = np.where(ages < NEAR, 1 / (ages + 1.0), 0).astype(np.float32)
    keys, place = np.unique(users * size + items, return_inverse=True)
    own = np.bincount(place, step, len(keys)).astype(np.float32)[place]
    follows = _without(one @ tables.followers, own, target)
    to_near = (one @ tables.near).tocsr()
    same = sparse.csr_matrix((step, (users, events)), shape=(len(before), len(items)))
    reached = np.asarray(to_near.multiply((same @ one)[users]).sum(axis=1), dtype=np.float32).ravel()
    repeated = np.bincount(users, items == target, len(before)) > 0
    routes = [
        follows,
        _shared(tables, one, items, target, repeated[users]),
        one @ tables.neighbors,
        _without(to_near @ tables.followers, reached, target),
        follows @ tables.near_to,
        one,
    ]
    found = [matrix.tocoo() for matrix in routes]
    reads = [number * AGES + ages[matrix.row] for number, matrix in enumerate(found)]
    totals = np.maximum(tables.totals[targets] - 1, COUNT_FLOOR)
    return LeftOut(
        np.concatenate([users[matrix.row] for matrix in found]),
        np.concatenate([matrix.col for matrix in found]).astype(np.int64),
        np.concatenate(reads),
        np.concatenate([matrix.data for matrix in found]),
        targets,
        totals,
        np.stack([users, items]),
        repeated,
    )


def _without(matrix: sparse.csr_matrix, own: np.ndarray, target: np.ndarray) -> sparse.csr_matrix:
    """Subtract ``own`` [rows] at the column ``target`` [rows], not below 0."""
    matrix = matrix.tocsr()
    matrix.sum_duplicates()
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    hit = matrix.indices == target[row]
    matrix.data[hit] = np.maximum(matrix.data[hit] - own[row[hit]], 0)
    return matrix


def _shared(
    tables: MemoryTables, one: sparse.csr_matrix, items: np.ndarray, target: np.ndarray, repeated: np.ndarray
) -> sparse.csr_matrix:
    """``shared`` of the events' items, where the user isn't one of those who had the target."""
    matrix = (one @ tables.shared).tocsr()
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    hit = (matrix.indices == target[row]) & ~repeated[row]
    first, second = tables.totals[items[row[hit]]], tables.totals[target[row[hit]]]
    count = matrix.data[hit] * np.sqrt(first * second) - 1
    matrix.data[hit] = np.maximum(count, 0) / np.sqrt(first * np.maximum(second - 1, COUNT_FLOOR))
    return matrix


class _Weights(torch.nn.Module):
    """Weights as logarithms: all are above 0, but for those of ``again`` where no item of the history is an answer."""

    def __init__(self, exclude_history: bool) -> None:
        super().__init__()
        routes = len(ROUTES)
        self.used = torch.ones(routes, 1)
        self.used[AGAIN] = not exclude_history
        self.scale = torch.nn.Parameter(torch.full((routes,), -1.5))
        self.decay = torch.nn.Parameter(torch.full((routes,), 1.0))
        self.newest = torch.nn.Parameter(torch.zeros(routes))
        self.floor, self.popularity, self.power = (torch.nn.Parameter(torch.tensor(x)) for x in (-2.0, 0.0, 0.5))

    def kernels(self) -> torch.Tensor:
        """[routes, AGES]: geometric in the age, with a factor of its own for the newest event."""
        ages = torch.arange(AGES)
        kernel = self.used * self.scale.exp().unsqueeze(1) * torch.sigmoid(self.decay).unsqueeze(1) ** ages
        return torch.cat([kernel[:, :1] * self.newest.exp().unsqueeze(1), kernel[:, 1:]], dim=1)

    def log_mass(self, batch: LeftOut, totals: torch.Tensor, mean: float) -> torch.Tensor:
        """Logits [B, items] of the next item."""
        count, size = len(batch.targets), len(totals)
        cells = torch.from_numpy(batch.users * size + batch.items)
        values = self.kernels().flatten()[torch.from_numpy(batch.reads)] * torch.from_numpy(batch.values)
        mass = torch.zeros(count * size).index_add(0, cells, values).view(count, size)
        targets = torch.from_numpy(batch.targets).unsqueeze(1)
        own = totals.expand(count, size).scatter(1, targets, torch.from_numpy(batch.totals).unsqueeze(1))
        prior = self.floor.exp() * (1 + self.popularity.exp() * torch.log1p(own / mean))
        return self.power.exp() * torch.log(mass + prior)


def fit_weights(
    tables: MemoryTables, train: Sequences, exclude_history: bool = True, seed: int = 0, steps: int = _STEPS
) -> MemoryWeights:
    """Fit by users' last training events, each left out of the counts, see :func:`robust_loss`.

    Args:
        tables: counted from ``train``.
        exclude_history: the next item is none of the history's, and users whose last event is one are left out.
        seed: of the order of users.
        steps: of Adam.

    Returns:
        The weights; those of a log where no user has two events are the starting values.
    """
    model = _Weights(exclude_history)
    useful = np.flatnonzero(train.lengths > 1)
    if len(useful):
        optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
        totals, mean = torch.from_numpy(tables.totals), float(tables.totals.mean())
        for _, users in zip(range(steps), _drawn(useful, len(tables), seed)):
            batch = leave_last_out(tables, train.select(users))
            logits, targets = model.log_mass(batch, totals, mean), torch.from_numpy(batch.targets)
            if exclude_history:
                history = torch.from_numpy(batch.history)
                repeated = torch.from_numpy(batch.repeated)
                logits = logits.index_put((history[0], history[1]), torch.tensor(float("-inf")))[~repeated]
                targets = targets[~repeated]
            if not len(targets):
                continue
            loss = robust_loss(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return MemoryWeights(
            model.kernels().numpy(),
            float(model.floor.exp()),
            float(model.popularity.exp()),
        )


def robust_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean of ``(1 - p^q) / q``, the generalized cross-entropy of Zhang and Sabuncu (arXiv 1805.07836).

    Most next items can't be foreseen from counts. The likelihood spends its effort on them, and makes everything
    popular probable; here a target counts the less, the less probable it is. On validation items of Beauty and Toys,
    NDCG@10 of a memory is .0865 and .0930 with it, .0857 and .0845 with the likelihood.

    Args:
        logits: [B, items].
        targets: int64 [B].
    """
    probability = logits.softmax(-1).gather(1, targets.unsqueeze(1))
    return ((1 - probability**_Q) / _Q).mean()


def _drawn(users: np.ndarray, num_items: int, seed: int) -> Iterator[np.ndarray]:
    """Batches of users in random order, over and over."""
    random = np.random.default_rng(seed)
    size = min(_USERS, max(8, _SCORES_AT_ONCE // num_items))
    while True:
        order = random.permutation(users)
        for start in range(0, len(order), size):
            yield np.sort(order[start : start + size])
