"""Decisions of a training are told with their reasons and settings."""

import pyarrow as pa
import pytest

from tiger.data.dataset import RecommendationData
from tiger.training.decisions import decisions_of
from tiger.training.two_stage import order_in_words

RESULTS = {"exclude_history": True, "models": {"popularity": {}}, "users": 6}


def make_data(repeat=False):
    rows = [(f"u{user}", f"i{(user + step) % (2 if repeat else 9)}", step) for user in range(6) for step in range(5)]
    log = pa.table(dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows)))))
    return RecommendationData.from_tables(pa.table({"item_id": [f"i{row}" for row in range(9)]}), log)


def told(training, results=RESULTS, codes=None, data=None):
    return {name: rest for name, *rest in decisions_of(data or make_data(), training, codes or {}, results)}


def make_training(**more):
    asked = {"tokens": "prefixes", "num_train_epochs": 3, "min_steps": 600, "memory": True}
    return {"arguments": asked, "epochs": 29.0, "steps": 638, "best_step": 572} | more


def test_all_decisions_are_there_with_reasons_and_settings():
    memory = {"t5_weight": 0.4, "users": 900, "validation ndcg@10": {"0.15": 0.1, "0.4": 0.2}, "popular items": 0.05}
    found = told(make_training(memory=memory), codes={"codes_used": [64, 60]})
    assert list(found) == [
        *("semantic IDs", "tokens of the T5", "epochs", "items of the history", "memory", "second stage"),
        "users of the test",
    ]
    assert found["semantic IDs"][0] == "2 levels, 64 and 60 codes in use" and "9." in found["semantic IDs"][1]
    assert found["epochs"][:2] == [
        "29, which are 638 steps",
        "The recipe trains for 600 steps or more, which a small log takes many epochs for; validation was best at "
        "step 572, whose weights are kept.",
    ]
    assert found["memory"][0] == "the T5 counts 0.4 times beside the counts of the log"
    assert "better than the default 0.15 by two standard errors on 900 validation users" in found["memory"][1]
    assert "N@10 there is 0.2000, of popular items 0.0500" in found["memory"][1]
    assert found["users of the test"][0] == "6"
    assert all(len(rest) == 3 and all(rest) for rest in found.values())


@pytest.mark.parametrize(
    ("softmax", "choice", "why"),
    [
        (
            "items",
            "items: the probability of a first token is the sum over its items",
            "The catalog has 9 items, no more",
        ),
        ("children", "children", "A setting (retriever.output_softmax) says so."),
    ],
)
def test_the_softmax_is_told(softmax, choice, why):
    training = make_training()
    training["arguments"]["output_softmax"] = softmax
    found = told(training)["softmax of the T5"]
    assert found[0] == choice and found[1].startswith(why) and found[2] != f"retriever.output_softmax={softmax}"
    assert "the parent" in told(training | {"parent": {}})["softmax of the T5"][1]
    training["arguments"]["tokens"] = "codes"  # there is nothing to decide
    assert "softmax of the T5" not in told(training)


@pytest.mark.parametrize("repeat", [False, True])
def test_the_history_is_told_with_the_share_of_repeats(repeat):
    choice, why, change = told(make_training(), RESULTS | {"exclude_history": not repeat}, data=make_data(repeat))[
        "items of the history"
    ]
    assert choice.startswith("kept" if repeat else "left out")
    assert ("100.0%" if repeat else "0.0%") in why and "setting" not in why
    assert change == f"retriever.exclude_history={'true' if repeat else 'false'}"
    other = told(make_training(), RESULTS | {"exclude_history": repeat}, data=make_data(repeat))
    assert "A setting (exclude_history), or the model gone on from, says so" in other["items of the history"][1]


def test_a_memory_that_leans_on_popular_items_says_so():
    memory = {"t5_weight": 0.0, "users": 900, "validation ndcg@10": {"0.15": 0.1}, "popular items": 0.15}
    choice, why, _ = told(make_training(memory=memory | {"with more popularity": 0.16}))["memory"]
    assert "popular items count more" in choice
    assert why.endswith("popular items had N@10 0.1500, more than the mixture: now it has 0.1600.")
    assert told({"arguments": {"memory": False}})["memory"][0] == "none"


def test_a_second_stage_says_what_orders_and_why():
    numbers = {"users held out": 1000, "trees": [9], "held out ndcg@10, trees": 0.2, "held out ndcg@10, hybrid": 0.21}
    hybrid = numbers | {"order": "hybrid"}
    choice, why, change = told(make_training(second_stage=hybrid))["second stage"]
    assert choice == "the hybrid's order, no trees" and change == "two_stage.keep=trees"
    assert why == (
        "On 1,000 users held out, N@10 of the trees is 0.2000, the hybrid's 0.2100: the trees are not better by two "
        "standard errors, so the hybrid's score orders the candidates."
    )
    assert "and the T5's 0.3000: the" in order_in_words(numbers | {"order": "t5", "held out ndcg@10, t5": 0.3})
    assert "a setting (two_stage.keep)" in order_in_words({"order": "trees", "trees": [3]})
    assert order_in_words({"order": "t5", "reason": "no target."}) == "No second stage: no target."
    assert told(make_training())["second stage"][0] == "none"
