"""Answers of the page: recommended items with their scores as shares, numbers and reasons."""

from __future__ import annotations

import numpy as np

from tiger.recommender.filters import CompiledFilter
from tiger.recommender.recommender import TigerRecommender
from tiger.serving.page.cards import Answer
from tiger.serving.page.link import PageState
from tiger.serving.page.reasons import HOW, WITH_MEMORY, Reasons, find_reasons, t5_log_probs

MAX_DROPS = 3  # items of the history that an answer's numbers name


def find_answers(
    recommender: TigerRecommender, state: PageState, history: np.ndarray, filter: CompiledFilter | None = None
) -> list[Answer]:
    """Recommend, and find out why.

    Args:
        state: number of answers and search options.
        history: int64 [m], rows of items, oldest first.
        filter: what may be answered; None: everything.
    """
    rank = state.rank and recommender.ranker is not None
    items, scores = recommender.recommend(
        [[recommender.tokenizer.item_ids[row] for row in history]],
        k=state.k,
        num_beams=max(state.num_beams, state.k),
        temperature=state.temperature or None,
        exclude_history=state.exclude_history,
        rank=rank,
        both_scores=rank,
        filter=filter,
    )
    rows = recommender.tokenizer.rows(items[0])
    if len(rows) == 0:
        return []
    both = scores[0, : len(rows)].reshape(len(rows), -1)
    deciding = both[:, -1].astype(np.float64)
    shares = np.exp(deciding - deciding.max())
    reasons = find_reasons(recommender, history, rows, rank)
    # Scores of a search with a memory are no probabilities of the T5's.
    known = recommender.state
    own = both[:, 0] if known.memory is None else t5_log_probs(known, [np.asarray(history)], rows)[0]
    titles = recommender.titles([recommender.tokenizer.item_ids[row] for row in history])
    return [
        Answer(
            int(row),
            float(share),
            (
                *([("Ranker, score", f"{float(row_scores[-1]):.2f}")] if rank else []),
                *([] if known.memory is None else [_mixed_number(float(row_scores[0]))]),
                *_t5_numbers(float(own[number])),
                *_drop_numbers(reasons, number, titles),
            ),
            int(history[place]) if (place := int(reasons.places[number])) >= 0 else -1,
            f"{HOW} Scored by the {reasons.scored_by}." if place >= 0 else "",
        )
        for number, (row, share, row_scores) in enumerate(zip(rows, shares, both))
    ]


def _mixed_number(score: float) -> tuple[str, str]:
    """The score of a search with a memory, as a name and a value."""
    if np.isneginf(score):
        return WITH_MEMORY, "not among its proposals"
    return f"{WITH_MEMORY}, score", f"{score:.2f}"


def _t5_numbers(log_prob: float) -> list[tuple[str, str]]:
    """The T5's log-probability and probability, as names and values."""
    if np.isneginf(log_prob):
        return [("T5", "not among its proposals")]
    return [("T5, log-probability", f"{log_prob:.2f}"), ("T5, probability", f"{np.exp(log_prob):.2%}")]


def _drop_numbers(reasons: Reasons, number: int, titles: list[str]) -> list[tuple[str, str]]:
    """By how much the score changes without items of the history, the largest changes first."""
    drops = reasons.drops[number]
    order = [place for place in np.argsort(-np.abs(drops), kind="stable")[:MAX_DROPS] if abs(drops[place]) >= 0.005]
    return [(f"Without {titles[place]}", f"{-drops[place]:+.2f} ({reasons.scored_by})") for place in order]
