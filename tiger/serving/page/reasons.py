"""Reasons for answers: the item of the history without which an answer's score would fall the most.

Each item of the history is left out in turn, and all answers are scored again, in one batch: by the ranker, where it
has ordered them, else by the T5, or by the T5 and the memory together where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tiger.data.sequences import Sequences, pad_rows
from tiger.recommender.recommender import TigerRecommender
from tiger.recommender.state import RecommenderState
from tiger.retriever.item_scores import item_log_probs
from tiger.retriever.memory import AGES

# Set by hand, not tuned: a fall of 0.1 in a logarithm of odds is a tenth of the probability; half as much again as an
# equal part, or a third of the whole, is what stands out.
MIN_DROP = 0.1
MIN_SHARE, TIMES_EQUAL = 0.3, 1.5
WITH_MEMORY = "T5 with its memory"  # what scores, where no ranker does
HOW = "Each item of the history was left out in turn: without this one, the score falls the most."


@dataclass(frozen=True)
class Reasons:
    """Reasons for n answers to a history of m items.

    Args:
        drops: float32 [n, m], by how much each answer's score falls without each item.
        places: int64 [n], the item of the history that stands out; -1: none does.
        scored_by: ``ranker``, ``T5``, or ``T5 with its memory``.
    """

    drops: np.ndarray
    places: np.ndarray
    scored_by: str


def find_reasons(recommender: TigerRecommender, history: np.ndarray, answers: np.ndarray, ranked: bool) -> Reasons:
    """The reasons for answers.

    Args:
        history: int64 [m], rows of items, oldest first; only the last ones, as many as are read, are left out.
        answers: int64 [n], rows.
        ranked: whether the ranker has ordered them.
    """
    state = recommender.state
    scored_by, longest = "T5", state.max_history
    if ranked and state.ranker is not None:
        scored_by = "ranker"
    elif state.memory is not None:
        scored_by, longest = WITH_MEMORY, max(AGES, state.max_history)
    read = np.asarray(history, dtype=np.int64)[-longest:]
    if not len(read) or not len(answers):
        return Reasons(np.zeros((len(answers), len(history)), np.float32), np.full(len(answers), -1), scored_by)
    histories = [read, *(np.delete(read, place) for place in range(len(read)))]
    if ranked and state.ranker is not None:
        scores = state.ranker.score(histories, np.tile(np.asarray(answers, dtype=np.int64), (len(histories), 1)))
    else:
        scores = search_scores(state, histories, answers)
    drops = np.zeros((len(answers), len(history)), dtype=np.float32)
    drops[:, len(history) - len(read) :] = (scores[0] - scores[1:]).T
    return Reasons(drops, outstanding(drops), scored_by)


def search_scores(state: RecommenderState, histories: list[np.ndarray], answers: np.ndarray) -> np.ndarray:
    """Scores of answers, int64 [n] rows, after each history, float32 [histories, n]: those of a search."""
    scores = t5_log_probs(state, histories, answers)
    if state.memory is None:
        return scores
    rows = np.tile(np.asarray(answers, dtype=np.int64), (len(histories), 1))
    return state.memory.mixed(Sequences.from_rows(histories), rows, scores)


def t5_log_probs(state: RecommenderState, histories: list[np.ndarray], answers: np.ndarray) -> np.ndarray:
    """Log-probabilities of answers, int64 [n] rows, under the T5 alone, after each history: float32 [histories, n]."""
    device = state.model.device
    read = pad_rows([history[-state.max_history :] for history in histories])
    tokens = torch.from_numpy(state.tokenizer.encode_history(read)).to(device)
    rows = torch.as_tensor(np.asarray(answers, dtype=np.int64), device=device)
    return item_log_probs(state.model, state.trie_on(device), tokens, rows).cpu().numpy()


def outstanding(drops: np.ndarray) -> np.ndarray:
    """int64 [n]: the column of [n, m] with the largest positive part of each row, where it stands out; else -1."""
    falls = np.maximum(np.nan_to_num(drops, posinf=0.0, neginf=0.0), 0)
    largest, total = falls.max(axis=1), falls.sum(axis=1)
    counted = (falls > 0).sum(axis=1)
    needed = np.minimum(np.maximum(MIN_SHARE, TIMES_EQUAL / np.maximum(counted, 1)), 1.0)
    stands_out = (largest >= MIN_DROP) & (largest >= needed * total)
    return np.where(stands_out, falls.argmax(axis=1), -1)
