"""Codes against a training log: whether their prefixes recover co-occurrence, and how many frequent items have.

Diagnostics D3 and D4 after SIDScope (arXiv 2608.18779), in our own definitions: that paper's code was not read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import gammaln

from tiger.data.cooccurrence import NEAR, pairs_by_gap
from tiger.data.sequences import Sequences

HEAD_SHARE = 0.1  # of the items: those with the most training events


def log_report(codes: np.ndarray, train: Sequences, max_gap: int = NEAR) -> dict[str, Any]:
    """Measure codes by a training log.

    Args:
        codes: int [n, L], without the collision token.
        train: training events over the n items.
        max_gap: steps within which two events of a user are a pair.

    Returns:
        A dict: ``cooccurrence_share``, per level, the share of pairs of different items, near each other in a history,
        that have all codes up to that level in common; ``cooccurrence_lift`` (D3), that share over the one of two
        different items drawn independently by how often they are in pairs, 1 for codes that know nothing of the log;
        ``head`` and ``tail`` (D4), see :func:`head_and_tail`. None where nothing can be counted.
    """
    groups = prefix_groups(codes)
    share, lift = cooccurrence_lift(groups, train, max_gap)
    counts = np.bincount(train.items, minlength=len(codes))
    return {"cooccurrence_share": share, "cooccurrence_lift": lift, **head_and_tail(groups, counts)}


def prefix_groups(codes: np.ndarray) -> list[np.ndarray]:
    """Number the prefixes of each length: int64 [n] per level, equal where items have all codes so far in common."""
    found, groups = [], np.zeros(len(codes), dtype=np.int64)
    for column in codes.T:
        groups = np.unique(groups * (int(codes.max()) + 1) + column, return_inverse=True)[1]
        found.append(groups)
    return found


def cooccurrence_lift(
    groups: list[np.ndarray], train: Sequences, max_gap: int = NEAR
) -> tuple[list[float | None], list[float | None]]:
    """Share of near pairs of different items in one group, and its lift over chance, per level; see
    :func:`log_report`.

    Args:
        groups: int [n] per level, the group of each item.
    """
    none: list[float | None] = [None] * len(groups)
    places = [(earlier, earlier + gap) for gap, earlier in pairs_by_gap(train, max_gap)]
    if not places:
        return none, none
    first, second = (train.items[np.concatenate(side)] for side in zip(*places))
    different = first != second
    first, second = first[different], second[different]
    if not len(first):
        return none, none
    ends = np.bincount(np.concatenate([first, second]), minlength=len(groups[0])).astype(float)
    same_item = np.square(ends).sum()
    shares: list[float | None] = []
    lifts: list[float | None] = []
    for group in groups:
        share = float((group[first] == group[second]).mean())
        together = np.square(np.bincount(group, ends)).sum()
        chance = float((together - same_item) / (ends.sum() ** 2 - same_item))
        shares.append(share)
        lifts.append(share / chance if chance > 0 else None)
    return shares, lifts


def head_and_tail(groups: list[np.ndarray], counts: np.ndarray) -> dict[str, dict[str, Any] | None]:
    """Capacity that the codes give to frequent items and to all others (D4).

    Args:
        groups: int [n] per level, the group of each item.
        counts: int [n], training events of each item.

    Returns:
        ``head``, the tenth of the items with the most events and those with as many as the last of them, and ``tail``,
        the others; None where there are none. Each is a dict: ``items``; ``events_share``; ``prefixes_per_item``, per
        level, the distinct prefixes that ``compared`` of its items are expected to have, for each of them: 1 where no
        two share one (the smaller part's size for both, for more items find fewer new prefixes); and
        ``shared_codes``, the share of its items that have all their codes in common with another of the catalog.
    """
    head = counts >= np.quantile(counts, 1 - HEAD_SHARE, method="higher")
    parts = {"head": head, "tail": ~head}
    compared = int(min(chosen.sum() for chosen in parts.values() if chosen.any()))
    sizes = np.bincount(groups[-1])
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(parts)
    for name, chosen in parts.items():
        if chosen.any():
            distinct = [expected_distinct(np.bincount(group[chosen]), compared) for group in groups]
            found[name] = {
                "items": int(chosen.sum()),
                "events_share": float(counts[chosen].sum() / max(counts.sum(), 1)),
                "compared": compared,
                "prefixes_per_item": [each / compared for each in distinct],
                "shared_codes": float((sizes[groups[-1][chosen]] > 1).mean()),
            }
    return found


def expected_distinct(sizes: np.ndarray, drawn: int) -> float:
    """Expected number of groups among items drawn without replacement (rarefaction, Hurlbert 1971).

    Args:
        sizes: int [groups], items of each; 0 is allowed.
        drawn: number of items, at most all.
    """
    total, sizes = sizes.sum(), sizes[sizes > 0]
    without = total - sizes  # items of all other groups
    possible = without >= drawn  # that none of the group is drawn
    log_chance = gammaln(without + 1.0) - gammaln(np.maximum(without - drawn, 0) + 1.0)
    log_chance -= gammaln(total + 1.0) - gammaln(total - drawn + 1.0)
    return float(len(sizes) - np.exp(log_chance[possible]).sum())
