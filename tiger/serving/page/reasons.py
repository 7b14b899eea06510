"""Reasons for answers: the item of the history without which an answer's score would fall the most.

Each item of the history is left out in turn, and all answers are scored again, in one batch: by the ranker, where it
has ordered them, else by the T5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tiger.data.sequences import pad_rows
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.item_scores import item_log_probs

# Set by hand, not tuned: a fall of 0.1 in a logarithm of odds is a tenth of the probability; half as much again as an
# equal part, or a third of the whole, is what stands out.
MIN_DROP = 0.1
MIN_SHARE, TIMES_EQUAL = 0.3, 1.5
HOW = "Each item of the history was left out in turn: without this one, the score falls the most."


@dataclass(frozen=True)
class Reasons:
    """Reasons for n answers to a history of m items.

    Args:
        drops: float32 [n, m], by how much each answer's score falls without each item.
        places: int64 [n], the item of the history that stands out; -1: none does.
        scored_by: ``ranker`` or ``T5``.
    """

    drops: np.ndarray
    places: np.ndarray
    scored_by: str


def find_reasons(recommender: TigerRecommender, history: np.ndarray, answers: np.ndarray, ranked: bool) -> Reasons:
    """The reasons for answers.

    Args:
        history: int64 [m], rows of items, oldest first; only the last ones, as many as the T5 reads, are left out.
        answers: int64 [n], rows.
        ranked: whether the ranker has ordered them.
    """
    state = recommender.state
    scored_by = "ranker" if ranked and state.ranker is not None else "T5"
    read = np.asarray(history, dtype=np.int64)[-state.max_history :]
    if not len(read) or not len(answers):
        return Reasons(np.zeros((len(answers), len(history)), np.float32), np.full(len(answers), -1), scored_by)
    histories = [read, *(np.delete(read, place) for place in range(len(read)))]
    if ranked and state.ranker is not None:
        scores = state.ranker.score(histories, np.tile(np.asarray(answers, dtype=np.int64), (len(histories), 1)))
    else:
        device = state.model.device
        tokens = torch.from_numpy(state.tokenizer.encode_history(pad_rows(histories))).to(device)
        rows = torch.as_tensor(np.asarray(answers, dtype=np.int64), device=device)
        scores = item_log_probs(state.model, state.trie_on(device), tokens, rows).cpu().numpy()
    drops = np.zeros((len(answers), len(history)), dtype=np.float32)
    drops[:, len(history) - len(read) :] = (scores[0] - scores[1:]).T
    return Reasons(drops, outstanding(drops), scored_by)


def outstanding(drops: np.ndarray) -> np.ndarray:
    """int64 [n]: the column of [n, m] with the largest positive part of each row, where it stands out; else -1."""
    falls = np.maximum(np.nan_to_num(drops, posinf=0.0, neginf=0.0), 0)
    largest, total = falls.max(axis=1), falls.sum(axis=1)
    counted = (falls > 0).sum(axis=1)
    needed = np.minimum(np.maximum(MIN_SHARE, TIMES_EQUAL / np.maximum(counted, 1)), 1.0)
    stands_out = (largest >= MIN_DROP) & (largest >= needed * total)
    return np.where(stands_out, falls.argmax(axis=1), -1)
