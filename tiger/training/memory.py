"""Fit the memory of a retriever, and choose on validation items how much its T5 counts beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from tiger.data.dataset import RecommendationData
from tiger.data.repeats import excludes_history
from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut
from tiger.embeddings.base import encode_items
from tiger.embeddings.item_neighbors import ItemTexts, word_vectors
from tiger.embeddings.item_text import item_texts
from tiger.evaluation.baselines import best_columns
from tiger.evaluation.metrics import next_item_metrics_per_user
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.dataset import EvaluationExamples
from tiger.retriever.memory import ItemMemory, MemoryTables
from tiger.retriever.memory_fitting import fit_weights
from tiger.training.tokenizer import vectors_of

# The largest ones are of logs whose order the counts don't know: there the T5 decides.
T5_WEIGHTS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
# Mass of popular items, in units of the largest of a history's masses, for logs where little else is to be learned; of
# the last one, popularity alone is left.
_POPULARITY = (1.0, 10.0, 100.0, 1e7)
VALIDATION_USERS = 2000
_MOST_UNCOUNTED = 0.2  # share of the log's validation events that are left out to measure on them
_SCORES_AT_ONCE = 1 << 23


@dataclass(frozen=True)
class Validation:
    """Validation users, and what the T5 alone finds for them.

    Args:
        histories: of n users.
        targets: int64 [n], rows.
        rows: int64 [n, beams], -1 where there are fewer.
        log_probs: float32 [n, beams].
        parts: users, int64 [m], each in one part, and the tables to measure them with; None: the memory's own.
    """

    histories: Sequences
    targets: np.ndarray
    rows: np.ndarray
    log_probs: np.ndarray
    parts: Sequence[tuple[np.ndarray, MemoryTables]] | None = None


def add_memory(
    recommender: TigerRecommender, data: RecommendationData, split: LeaveOneOut, embeddings: str | None
) -> None:
    """Give a recommender a memory of the training log and the items' texts; record what validation items chose.

    Args:
        recommender: of all items of the dataset.
        data: in the order of the recommender's items.
        split: that the T5 was trained on; where it holds nothing out, the T5's weight is the default.
        embeddings: a safetensors file of the texts' vectors; None: the recommender's encoder, where it has one.
    """
    exclude_history = excludes_history(split, None, recommender.training)
    print("fitting the memory: counts, neighbors and the weights of both")
    texts = item_texts(data.items, recommender.training.get("template"), required=False)
    vectors = None
    if embeddings:
        vectors = vectors_of(embeddings, data)
    elif recommender.encoder is not None:
        vectors = encode_items(recommender.encoder, texts)
    groups = recommender.tokenizer.codes[:, 0]
    memory = fit_memory(split.train, texts, vectors, groups, exclude_history)
    if not split.held_out:
        recommender.memory = memory
        return
    valid = EvaluationExamples(*split.part("valid"))
    drawn = valid.drawn(VALIDATION_USERS)
    valid = valid.select(drawn)
    search: dict[str, Any] = {"num_beams": 50, "exclude_history": exclude_history, "rank": False, "progress": True}
    beams = recommender.recommend_rows(valid.histories, 50, memory=False, **search)  # it may have one already
    parts = counted_elsewhere(split, drawn, memory.tables.neighbors)
    known = Validation(valid.histories, valid.targets, *beams, parts)
    recommender.memory, chosen = with_chosen_weight(memory, known, exclude_history)
    recommender.training = recommender.training | {"memory": chosen}
    print(f"the T5's log-probability counts {chosen['t5_weight']:g} times beside the memory's")


def fit_memory(
    train: Sequences,
    texts: Sequence[str],
    vectors: np.ndarray | None,
    groups: np.ndarray,
    exclude_history: bool,
    seed: int = 0,
) -> ItemMemory:
    """Count the log, compare the texts, and fit the weights of the routes.

    Args:
        train: the training log.
        texts: one per item, empty where there is none.
        vectors: float32 [items, d], of the texts by an encoder; None: words alone.
        groups: int [items], such as the first code.
        exclude_history: see :func:`tiger.retriever.memory_fitting.fit_weights`.
        seed: of the order of users.
    """
    words = word_vectors(texts)
    if words is None and vectors is None:
        vectors = np.zeros((len(texts), 1), dtype=np.float32)  # nothing is near anything
    tables = MemoryTables.fit(train, ItemTexts(words, vectors), groups)
    return ItemMemory(tables, fit_weights(tables, train, exclude_history, seed))


def counted_elsewhere(
    split: LeaveOneOut, users: np.ndarray, neighbors: sparse.csr_matrix
) -> list[tuple[np.ndarray, MemoryTables]]:
    """Tables that count others' validation events, as a memory in use counts all events so far, but not a user's own.

    The T5 learns nothing of them: beside a memory that lacks them it would count for too much.

    Args:
        split: of the log.
        users: int64 [n], of the split, who are measured.
        neighbors: what is known of the texts, see :meth:`tiger.retriever.memory.MemoryTables.counted`.

    Returns:
        Per part of the users: places in ``users``, and tables. A small log has several parts, of a fifth of its
        validation events at most.
    """
    count = math.ceil(len(users) / max(_MOST_UNCOUNTED * len(split.valid_targets), 1))
    part = np.random.default_rng(0).permutation(len(users)) % max(count, 1)
    found = []
    for places in (np.flatnonzero(part == number) for number in range(count)):
        uncounted = np.zeros(len(split.valid_targets), dtype=np.int64)
        uncounted[users[places]] = 1
        found.append((places, MemoryTables.counted(split.test_histories.drop_last(uncounted), neighbors)))
    return found


def with_chosen_weight(
    memory: ItemMemory, valid: Validation, exclude_history: bool
) -> tuple[ItemMemory, dict[str, Any]]:
    """Choose the T5's weight: the default, unless another one is better by two standard errors.

    Where popular items are a better answer than this mixture, popularity weighs more, as much as is best: up to an
    order by popularity alone, so that the mixture is not below it.

    Items that the T5's beams lack have no probability here, which spares a search for each weight.

    Returns:
        The memory, and what was measured: ``t5_weight``, ``seconds``, and NDCG@10 by weight, of the memory alone, of
        popular items, and ``with more popularity``, where it was raised.
    """
    start = time.perf_counter()
    default = memory.weights.t5_weight
    found = _ndcg(memory, valid, exclude_history, sorted({0.0, default, *T5_WEIGHTS}))
    best = max(found, key=lambda weight: found[weight].mean())
    gain = found[best] - found[default]
    error = gain.std() / max(len(gain), 1) ** 0.5
    chosen = best if gain.mean() > 2 * error else default
    measured = {f"{weight:g}": round(float(ndcg.mean()), 5) for weight, ndcg in found.items()}
    record = {"t5_weight": chosen, "validation ndcg@10": measured, "users": len(valid.targets)}
    mixed = replace(memory, weights=replace(memory.weights, t5_weight=chosen))
    popular = _ndcg(_with_popularity(memory, valid, _POPULARITY[-1]), valid, exclude_history, [0.0])[0.0].mean()
    record["popular items"] = round(float(popular), 5)
    if popular > found[chosen].mean():
        mixed, record = _raised(mixed, valid, exclude_history, record)
    record["seconds"] = round(time.perf_counter() - start)
    return mixed, record


def _raised(
    memory: ItemMemory, valid: Validation, exclude_history: bool, record: dict[str, Any]
) -> tuple[ItemMemory, dict[str, Any]]:
    """The best of the memories of more popularity, with the T5's weight that is best for it, and the record."""
    best, most = memory, -1.0
    for share in _POPULARITY:
        raised = _with_popularity(memory, valid, share)
        found = _ndcg(raised, valid, exclude_history, sorted({0.0, *T5_WEIGHTS}))
        weight = max(found, key=lambda weight: found[weight].mean())
        if found[weight].mean() > most:
            most = float(found[weight].mean())
            best = replace(raised, weights=replace(raised.weights, t5_weight=weight))
    weights = best.weights
    return best, record | {"t5_weight": weights.t5_weight, "with more popularity": round(most, 5)}


def _with_popularity(memory: ItemMemory, valid: Validation, share: float) -> ItemMemory:
    """The memory with a prior that follows the items' totals, ``share`` times the largest mass of a usual history."""
    count = min(len(valid.targets), 200, max(1, _SCORES_AT_ONCE // len(memory)))
    some = memory.mass(valid.histories.select(np.arange(count)))
    steep = 1000.0  # beside which the part that all items have alike is nothing
    weights = replace(memory.weights, floor=share * float(np.median(some.max(axis=1))) / steep, popularity=steep)
    return replace(memory, weights=weights)


def _ndcg(
    memory: ItemMemory, valid: Validation, exclude_history: bool, weights: Sequence[float]
) -> dict[float, np.ndarray]:
    """NDCG@10 of each validation user, float [n], by the T5's weight."""
    count = len(memory)
    order = np.random.default_rng(0).permutation(count)  # no order of rows decides between equal scores
    k, step = min(10, count), max(1, _SCORES_AT_ONCE // count)
    found = {weight: np.zeros(len(valid.targets)) for weight in weights}
    for part, tables in valid.parts or [(np.arange(len(valid.targets)), memory.tables)]:
        counting = replace(memory, tables=tables)
        for users in (part[start : start + step] for start in range(0, len(part), step)):
            histories = valid.histories.select(users)
            scores, probs = np.log(counting.mass(histories)), np.tile(counting.t5_floors, (len(users), 1))
            row, beam = np.nonzero(valid.rows[users] >= 0)
            probs[row, valid.rows[users][row, beam]] += np.exp(valid.log_probs[users][row, beam])
            if exclude_history:
                scores[histories.users, histories.items] = -np.inf
            log_probs = np.log(probs)
            for weight in weights:
                values = (scores + np.float32(weight) * log_probs)[:, order]
                answers = order[best_columns(values, k)[0]]
                found[weight][users] = next_item_metrics_per_user(answers, valid.targets[users], (k,))[f"ndcg@{k}"]
    return found
