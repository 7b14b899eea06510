"""Stories: a few users by title, with what they had, what came next and what is recommended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.dataset import EvaluationExamples

SHOWN = 5  # items of a history and of an answer


def stories_of(
    tiger: TigerRecommender,
    user_ids: Sequence[str],
    examples: EvaluationExamples,
    answers: np.ndarray,
    scores: np.ndarray,
    users: Iterable[int],
) -> list[dict[str, Any]]:
    """Describe users, by the titles of their items.

    Args:
        tiger: whose items have titles.
        user_ids: of the users, n of them.
        examples: their histories and next items.
        answers: int [n, at least 5], item rows, best first; -1: none.
        scores: float [n, at least 5].
        users: which of the n.

    Returns:
        For each: ``user``, ``events`` (the length of the history), ``history`` (its last titles, oldest first),
        ``next`` and ``recommended``, a list of ``title``, ``score`` and ``hit``.
    """
    found = []
    ids = tiger.tokenizer.item_ids
    for user in users:
        history, target = examples.histories[user], int(examples.targets[user])
        rows = [row for row in answers[user, :SHOWN].tolist() if row >= 0]
        names = tiger.titles([ids[row] for row in (*history[-SHOWN:], target, *rows)])
        past = len(history[-SHOWN:])
        recommended = [
            {"title": name, "score": round(float(score), 3), "hit": row == target}
            for name, row, score in zip(names[past + 1 :], rows, scores[user])
        ]
        found.append(
            {
                "user": str(user_ids[user]),
                "events": len(history),
                "history": names[:past],
                "next": names[past],
                "recommended": recommended,
            }
        )
    return found


def spread(length: int, count: int) -> list[int]:
    """Choose ``count`` of ``length`` places at even distances; fewer where there are fewer."""
    return np.unique(np.linspace(0, length - 1, count + 2).astype(int)[1:-1]).tolist()


def told(story: Mapping[str, Any]) -> str:
    """A story as text."""
    lines = [f"user {story['user']}, the last of {story['events']} items:"]
    lines += [f"    {name}" for name in story["history"]]
    lines.append(f"  then came {story['next']}; recommended:")
    lines += [f"  {'*' if one['hit'] else ' '} {one['score']:6.2f}  {one['title']}" for one in story["recommended"]]
    return "\n".join(lines)
