"""Trees from a stranger: every walk through what is let in ends at a leaf, and LightGBM never sees the rest."""

import random
import re

import lightgbm
import numpy as np
import pytest

from tiger.rankers.two_stage.trees import checked_model
from tiger.utils.errors import DataError

FEATURES = 6


@pytest.fixture(scope="module")
def fitted() -> tuple[lightgbm.Booster, np.ndarray]:
    numbers = np.random.default_rng(0)
    table = numbers.random((2000, FEATURES))
    table[::7, 1] = np.nan
    label = (table[:, 0] + table[:, 3] > 1).astype(int)
    settings = {"objective": "lambdarank", "num_leaves": 7, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    return lightgbm.train(settings, lightgbm.Dataset(table, label=label, group=[50] * 40), 4), table


def test_what_is_let_in_says_the_same(fitted):
    trees, table = fitted
    once = checked_model(trees.model_to_string(), FEATURES)
    again = lightgbm.Booster(model_str=once)
    assert np.array_equal(again.predict(table), trees.predict(table))
    assert checked_model(once, FEATURES) == once
    assert checked_model(again.model_to_string(), FEATURES) == once


def test_a_split_into_known_and_unknown():
    """LightGBM writes its threshold as ``inf``."""
    table = np.random.default_rng(0).integers(0, 2, (2000, 2)).astype(float)
    table[::3, 0] = np.nan
    data = lightgbm.Dataset(table, label=np.isfinite(table[:, 0]).astype(int), group=[50] * 40)
    settings = {"objective": "lambdarank", "num_leaves": 2, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    text = lightgbm.train(settings, data, 2).model_to_string()
    text = re.sub(r"threshold=\S+", "threshold=inf", text)
    text = re.sub(r"decision_type=\d+", "decision_type=8", text)  # NaN is apart, and goes to the right
    trees = lightgbm.Booster(model_str=text)
    found = lightgbm.Booster(model_str=checked_model(text, 2)).predict(table)
    assert np.array_equal(found, trees.predict(table)) and len(set(found)) == 2
    assert len(set(found[np.isnan(table[:, 0])])) == 1
    for word in ("-inf", "infinity", "inf inf", "nan"):
        with pytest.raises(DataError, match="threshold"):
            checked_model(text.replace("threshold=inf", f"threshold={word}"), 2)


def test_a_tree_that_is_one_leaf():
    table = np.ones((500, FEATURES))
    data = lightgbm.Dataset(table, label=np.arange(500) % 2, group=[50] * 10)
    trees = lightgbm.train({"objective": "lambdarank", "verbose": -1, "num_threads": 1}, data, 2)
    assert lightgbm.Booster(model_str=checked_model(trees.model_to_string(), FEATURES)).predict(table[:2]).shape == (
        2,
    )


@pytest.mark.parametrize(
    "old, new",
    [
        (r"split_feature=\d+", "split_feature=1000000"),
        (r"split_feature=\d+", "split_feature=-1"),
        (r"num_leaves=7", "num_leaves=0"),
        (r"num_leaves=7", "num_leaves=999999999"),
        (r"left_child=\S+", "left_child=0"),
        (r"right_child=\S+", "right_child=-99"),
        (r"num_cat=0", "num_cat=1"),
        (r"is_linear=0", "is_linear=1"),
        (r"decision_type=\d+", "decision_type=1"),
        (r"leaf_value=\S+", "leaf_value=nan"),
        (r"leaf_value=\S+", "leaf_value=1e999"),
        (r"threshold=\S+ ", "threshold="),
        (r"Tree=1", "Tree=7"),
        (r"max_feature_idx=5", "max_feature_idx=4000000"),
        (r"num_class=1", "num_class=5"),
        (r"objective=lambdarank", "objective=custom /etc/passwd"),
        (r"version=v4", "version=v4\nfile=/etc/passwd\nversion=v4"),
        (r"end of trees", "end"),
        (r"tree\n", "\x00"),
    ],
)
def test_what_would_break_lightgbm_is_refused(fitted, old, new):
    text, changed = fitted[0].model_to_string(), None
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    with pytest.raises(DataError):
        checked_model(changed, FEATURES)


def test_random_damage_never_reaches_lightgbm(fitted):
    """Some of it is another valid model; the process outlives all of it."""
    trees, table = fitted
    text = checked_model(trees.model_to_string(), FEATURES)
    chance, numbers = random.Random(0), list(re.finditer(r"-?\d+(\.\d+)?(e-?\d+)?", text))
    outcomes = {True: 0, False: 0}
    for turn in range(600):
        if turn % 2:
            place = chance.choice(numbers)
            values = ["-1", "0", "2", "6", "999999", "nan", "-7", "", "1e999", "3.5", "1e308"]
            damaged = text[: place.start()] + chance.choice(values) + text[place.end() :]
        else:
            place = chance.randrange(len(text))
            damaged = text[:place] + chance.choice("0123456789-=\n .eT") + text[place + chance.randrange(2) :]
        try:
            damaged = checked_model(damaged, FEATURES)
        except DataError:
            outcomes[False] += 1
            continue
        outcomes[True] += 1
        lightgbm.Booster(model_str=damaged).predict(table[:20], num_threads=1)
    assert min(outcomes.values()) > 50
