"""Statistical significance: intervals and p-values over users, and over users and refits together.

A bootstrap over users says how much a mean would differ with other users, for the models at hand. Models differ as
well: the same recipe with another seed gives another mean. A claim about a *recipe* needs both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def bootstrap_means(values: np.ndarray, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """Means of ``values`` [n] over ``draws`` resamples with replacement: float64 [draws].

    Equal seeds resample alike, so that two arrays over the same users give paired draws. 95% of the means lie between
    their quantiles .025 and .975 (the percentile interval of Efron).
    """
    random = np.random.default_rng(seed)
    return np.array([values[random.integers(len(values), size=len(values))].mean() for _ in range(draws)])


def bootstrap_interval(values: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """Between which 95% of the means over resampled ``values`` lie."""
    low, high = np.quantile(bootstrap_means(values, draws), [0.025, 0.975])
    return float(low), float(high)


def bootstrap_p(differences: np.ndarray, draws: int = 2000) -> float:
    """Two-sided p of a mean of zero, over users alone: twice the share of resampled means on the rarer side of zero.

    Means of exactly zero count for both sides. Between 2 / ``draws`` (so many draws can't tell less) and 1.
    """
    return two_sided(bootstrap_means(differences, draws))


def two_sided(means: np.ndarray) -> float:
    """Twice the share of ``means`` on the rarer side of zero, zero belonging to both; from 2 / len(means) to 1."""
    rarer = min(int(np.count_nonzero(means >= 0)), int(np.count_nonzero(means <= 0)))
    return float(np.clip(2 * max(rarer, 1) / len(means), 0.0, 1.0))


@dataclass(frozen=True)
class Comparison:
    """Difference in quality between two recipes.

    Args:
        difference: of the means over fits and users.
        low, high: 95% of what other users and other fits would give.
        p: two-sided, of no difference.
        std_over_fits: standard deviations over the fits of either recipe; ``nan`` where there is one fit.
    """

    difference: float
    low: float
    high: float
    p: float
    std_over_fits: tuple[float, float]


def compare_recipes(first: np.ndarray, second: np.ndarray, draws: int = 4000, seed: int = 0) -> Comparison:
    """Compare two recipes, each fitted several times, on the same users.

    A draw resamples the users of all fits alike, and gives either recipe the mean that other fits might have had: the
    standard error over its fits times a t of as many degrees of freedom as it has fits less one. (To resample three
    fits themselves would make too little of how they differ: Behrens and Fisher's problem, Fisher's answer. Under no
    difference 5% or fewer of the p-values are below .05, ``tests/evaluation/test_significance.py``.)

    Args:
        first, second: float [fits, users], a metric of each user under each fit; two fits at least of either.

    Raises:
        ValueError: the users differ in number, or a recipe has one fit: nothing is known of refits then.
    """
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{first.shape[1]} users under the first recipe, {second.shape[1]} under the second")
    if min(len(first), len(second)) < 2:
        raise ValueError("a recipe that was fitted once has no variance over refits: fit it with another seed, too")
    random = np.random.default_rng(seed)
    means = bootstrap_means(first.mean(axis=0) - second.mean(axis=0), draws, seed)
    spread = []
    for fits, sign in ((first, 1), (second, -1)):
        std = float(fits.mean(axis=1).std(ddof=1))
        spread.append(std)
        means = means + sign * std / np.sqrt(len(fits)) * random.standard_t(len(fits) - 1, draws)
    low, high = np.quantile(means, [0.025, 0.975])
    difference = float(first.mean() - second.mean())
    return Comparison(difference, float(low), float(high), two_sided(means), (spread[0], spread[1]))
