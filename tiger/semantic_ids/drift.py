"""Drift report: error and collisions of the frozen quantizer on new items; semantic IDs that a refit has changed."""

from __future__ import annotations

import math

import numpy as np

from tiger.embeddings.base import check_embeddings
from tiger.quantizers.base import Quantizer
from tiger.quantizers.report import quantization_report
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError

MAX_BADLY_FITTED = 0.25
MAX_MORE_COLLISIONS = 0.25
_FIGURES = ("num_items", "relative_error", "codes_used", "perplexity")


def drift_report(quantizer: Quantizer, old: np.ndarray, new: np.ndarray) -> dict:
    """Measure how well a quantizer that was fitted to old items describes new ones.

    An item is *badly fitted* if its squared error is above that of 95% of the old items; it *collides* if another one,
    old or new, has all its codes. *A refit is recommended* where with 95% confidence (Wilson's interval, one side)

    * more than a quarter of the new items are badly fitted. Without drift it is 5%, and some more where the quantizer
      follows the very items that it was fitted to: of Amazon Beauty with 3 levels of 256 codes, 12% to 14% when items
      at random are held out of the fit, but 34% to 85% when a whole category is (recipes/experiments/drift.py); or
    * the share of new items that collide is above that of the old ones by more than a quarter of all: the codes no
      longer distinguish the new ones.

    Args:
        quantizer: the one that was fitted to the old items.
        old: float [n, d], embeddings of items that it was fitted to, or of a sample of them.
        new: float [m, d], embeddings of items that it was not fitted to.

    Returns:
        ``old`` and ``new``: ``num_items``, ``codes_used`` and ``perplexity`` (one per level), ``collision_share``, and
        ``relative_error``: squared error over the mean squared distance of *old* items from their mean, so that both
        are on one scale; ``badly_fitted``, the share of the new items; ``badly_fitted_at_least`` and
        ``collision_share_at_least``, the lower ends of intervals; ``refit``; ``reasons``, sentences.

    Raises:
        DataError: embeddings that the quantizer can't read.
    """
    old, new = check_embeddings(old, "old embeddings"), check_embeddings(new, "new embeddings")
    figures, errors = _figures(quantizer, old, new)
    badly = float((errors[1] > np.quantile(errors[0], 0.95)).mean())
    badly_at_least, shared_at_least = (
        _lower_bound(share, len(new)) for share in (badly, figures[1]["collision_share"])
    )
    reasons = []
    if badly_at_least > MAX_BADLY_FITTED:
        reasons.append(f"{badly:.0%} of the new items are fitted worse than 95% of the old ones.")
    if shared_at_least > figures[0]["collision_share"] + MAX_MORE_COLLISIONS:
        reasons.append(
            f"{figures[1]['collision_share']:.0%} of the new items share all their codes with another, "
            f"of the old ones {figures[0]['collision_share']:.0%}."
        )
    return {
        "old": figures[0],
        "new": figures[1],
        "badly_fitted": badly,
        "badly_fitted_at_least": badly_at_least,
        "collision_share_at_least": shared_at_least,
        "refit": bool(reasons),
        "reasons": reasons,
    }


def _figures(quantizer: Quantizer, old: np.ndarray, new: np.ndarray) -> tuple[list[dict], list[np.ndarray]]:
    """Figures of old and new items, and the relative error of each item."""
    spread = float(np.square(old - old.mean(axis=0), dtype=np.float64).sum(axis=1).mean())
    figures, errors, codes = [], [], []
    for part in (old, new):
        codes.append(quantizer.encode(part))
        reconstruction = quantizer.decode(codes[-1])
        errors.append(np.square(part - reconstruction, dtype=np.float64).sum(axis=1) / (spread or 1.0))
        figure = quantization_report(codes[-1], part, reconstruction, quantizer.codebook_size)
        figures.append({name: figure[name] for name in _FIGURES} | {"relative_error": float(errors[-1].mean())})
    together = np.unique(np.concatenate(codes), axis=0, return_inverse=True)[1].ravel()
    shared = np.bincount(together)[together] > 1
    # Old and new in one pool: in a larger one more would collide.
    figures[0]["collision_share"] = float(shared[: len(old)].mean())
    figures[1]["collision_share"] = float(shared[len(old) :].mean())
    return figures, errors


def ids_changed(old: SemanticIdTokenizer, new: SemanticIdTokenizer) -> dict:
    """Compare the semantic IDs of the items that two tokenizers, before and after a refit, both know.

    Codes are names: a refit may call the same group of items by another number. So besides how many codes are other
    ones, it is counted whether the same items still share a prefix, by the adjusted Rand index (1: the same groups, 0:
    no more alike than chance; Hubert and Arabie 1985).

    Returns:
        ``num_items``; ``changed``, the share of items with another code, one per level and the collision token last;
        ``changed_ids``, the share with another semantic ID; ``same_groups``, the index of prefixes of 1, 2, ... codes.

    Raises:
        DataError: the tokenizers have no item in common, or another number of levels.
    """
    from sklearn.metrics import adjusted_rand_score

    if old.depth != new.depth:
        raise DataError(f"semantic IDs of {old.depth} and of {new.depth} tokens can't be compared.")
    rows = new.rows(old.item_ids, missing=-1)
    both = rows >= 0
    if not both.any():
        raise DataError("the two tokenizers have no item in common.")
    before, after = old.semantic_ids[both], new.semantic_ids[rows[both]]
    groups = []
    for level in range(1, old.depth):
        first, second = (np.unique(ids[:, :level], axis=0, return_inverse=True)[1].ravel() for ids in (before, after))
        groups.append(float(adjusted_rand_score(first, second)))
    return {
        "num_items": int(both.sum()),
        "changed": (before != after).mean(axis=0).tolist(),
        "changed_ids": float((before != after).any(axis=1).mean()),
        "same_groups": groups,
    }


def _lower_bound(share: float, count: int) -> float:
    """The lower end of Wilson's interval of a share, 95% on one side."""
    z = 1.6449
    center = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (center - spread) / (1 + z * z / count))
