"""p-values that mean what they say."""

import numpy as np
import pytest

from tiger.evaluation.significance import bootstrap_interval, bootstrap_means, bootstrap_p, compare_recipes


def test_no_difference_at_all_is_no_finding():
    assert bootstrap_p(np.zeros(100)) == 1.0


def test_no_p_is_smaller_than_the_draws_can_tell():
    assert bootstrap_p(np.ones(100), draws=500) == 2 / 500
    assert bootstrap_p(-np.ones(100), draws=500) == 2 / 500


def test_the_interval_holds_the_mean():
    values = np.random.default_rng(0).normal(1.0, 1.0, 400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high and (high - low) / 2 == pytest.approx(1.96 / 20, rel=0.15)


def simulated(random, users: int, fits: int, difference: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Two recipes whose fits differ as much as users make their means differ."""
    own = random.normal(0, 1, users)

    def recipe(mean: float) -> np.ndarray:
        return own + mean + random.normal(0, 0.03, (fits, 1)) + random.normal(0, 0.5, (fits, users))

    return recipe(difference), recipe(0.0)


def test_equal_recipes_are_seldom_told_apart():
    """Over users alone, a third of such pairs would "differ"; the share below .05 is to be at most .05, here within
    three standard errors of its 200 trials."""
    random, both, users_alone = np.random.default_rng(0), [], []
    for _ in range(200):
        first, second = simulated(random, users=400, fits=3)
        both.append(compare_recipes(first, second, draws=400).p)
        users_alone.append(bootstrap_p((first - second).mean(axis=0), draws=400))
    assert np.mean(np.array(both) < 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    assert np.mean(np.array(users_alone) < 0.05) > 0.1


def test_a_large_difference_is_found():
    first, second = simulated(np.random.default_rng(1), users=400, fits=3, difference=0.5)
    found = compare_recipes(first, second)
    assert found.p < 0.01 and found.low < found.difference < found.high
    error = np.sqrt(2 / 3 * (0.03**2 + 0.5**2 / 400))  # of the difference of two recipes of three fits
    assert found.difference == pytest.approx(0.5, abs=4 * error)
    assert (found.high - found.low) / 2 > 1.5 * error


def test_one_fit_says_nothing_of_refits():
    with pytest.raises(ValueError, match="fit it with another seed"):
        compare_recipes(np.zeros((1, 10)), np.zeros((3, 10)))
    with pytest.raises(ValueError, match="10 users under the first recipe, 9"):
        compare_recipes(np.zeros((3, 10)), np.zeros((3, 9)))


def test_bootstrapped_means_spread_as_means_do():
    values = np.random.default_rng(1).normal(2.0, 3.0, 900)
    means = bootstrap_means(values, draws=2000)
    assert means.mean() == pytest.approx(values.mean(), abs=0.02)
    assert means.std() == pytest.approx(values.std() / 30, rel=0.08)
    assert np.allclose(bootstrap_means(values + 1, draws=50), bootstrap_means(values, draws=50) + 1)  # paired
