"""Plans: folders of recipes with misspelled names, a first look, and how long steps may take."""

import shutil
import time

import pytest
import yaml

from recipes.evaluate import EvaluateArguments
from tests.recipes.test_recorded_commands import ROOT, write_recipe
from tiger.training.arguments import known_keys
from tiger.training.catalog_size import CatalogSize
from tiger.training.evaluation import SCRIPT_KEYS, EvaluationArguments, users_to_ask
from tiger.training.plan import FAST, check_settings, find_recipe, make_plan, over
from tiger.training.progress import StepClock, duration, estimated_seconds
from tiger.training.tokenizer import TokenizerArguments, sized
from tiger.utils.errors import DataError


def test_a_misspelled_recipe_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path / "small")
    assert find_recipe("small").name == "small"
    for wrong, meant in (("defualt", "default"), ("smal", "small")):
        with pytest.raises(DataError, match=rf"^{wrong} is not a recipe \(is {meant} meant\?\): .* default, paper\.$"):
            find_recipe(wrong)
    (tmp_path / "small" / "two_stage.yaml").rename(tmp_path / "small" / "twostage.yaml")
    with pytest.raises(DataError, match=r"^small/twostage.yaml is no step's file: call it two_stage.yaml\.$"):
        find_recipe("small")
    (tmp_path / "small" / "twostage.yaml").rename(tmp_path / "small" / "two_stage.yml")
    with pytest.raises(DataError, match=r"two_stage.yml is no step's file: call it two_stage.yaml"):
        find_recipe("small")
    (tmp_path / "small" / "two_stage.yml").rename(tmp_path / "small" / "notes.yaml")
    assert find_recipe("small")  # whatever else lies there
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="^nothing is not a recipe: it holds none of tokenizer.yaml"):
        find_recipe("nothing")
    shutil.rmtree(tmp_path / "small")
    with pytest.raises(DataError, match="^small is not a recipe: give a folder"):
        find_recipe("small")


@pytest.mark.parametrize("folder", ["beauty", "demo", "demo-full", "sports", "toys", "paper/beauty"])
def test_the_recipes_of_the_repository_are_right(folder):
    plan = make_plan("data", "run", ROOT / "recipes" / folder)
    assert set(check_settings(plan, plan.steps)) == set(plan.steps) and len(plan.steps) >= 3


def test_a_misspelled_key_of_the_evaluation_is_told(tmp_path):
    recipe = tmp_path / "mine"
    write_recipe(recipe)
    (recipe / "evaluate.yaml").write_text("num_beam: 20\n")
    with pytest.raises(DataError, match=r"mine/evaluate.yaml: unknown key 'num_beam'. Did you mean 'num_beams'\?"):
        make_plan("data", "run", recipe)
    (recipe / "evaluate.yaml").write_text("num_beams: 20\ntie_seeds: [0]\nresults_dir: out\n")
    plan = make_plan("data", "run", recipe, overrides={"evaluate": {"part": "valid"}})
    assert plan.arguments("evaluate")[0].num_beams == 20
    assert plan.settings["evaluate"] == {"num_beams": 20, "tie_seeds": [0], "results_dir": "out", "part": "valid"}
    with pytest.raises(DataError, match="settings: unknown key 'tie_seed'. Did you mean 'tie_seeds'"):
        make_plan("data", "run", recipe, overrides={"evaluate": {"tie_seed": 1}})


def test_the_keys_of_the_script_that_measures_are_known():
    others = set(known_keys([EvaluateArguments])) - set(known_keys([EvaluationArguments]))
    assert sorted(SCRIPT_KEYS) == sorted(others)


def test_fast_is_the_demo_recipe_on_any_data():
    fast = make_plan("data", "run", overrides=over(FAST, {"retriever": {"seed": 3}}))
    demo = make_plan("data", "run", ROOT / "recipes" / "demo")
    beside = {"logging_steps", "report_to", "seed", "patience"}
    for step in ("tokenizer", "retriever", "two_stage"):
        one, two = (
            {name: value for part in plan.arguments(step) for name, value in vars(part).items() if name not in beside}
            for plan in (fast, demo)
        )
        # What the recipe leaves open is, for so many items, what the demo's says.
        if step == "tokenizer":
            one, two = (vars(sized(TokenizerArguments(**given), 2400)) for given in (one, two))
        elif step == "retriever":
            assert one["tokens"] == "auto"
            one["tokens"] = CatalogSize.of(2400).tokens
        differing = {name for name in one if one[name] != two[name] and not name.startswith(("_", "logging"))}
        # The demo has no memory: its two minutes are for the T5 and the second stage.
        expected = {"accelerator_config", "distributed_state", "deepspeed_plugin", "memory"}
        assert differing <= expected, (step, differing)
    assert fast.settings["retriever"]["seed"] == 3 and fast.settings["retriever"]["num_train_epochs"] == 2
    assert fast.settings["evaluate"]["users"] == 5000
    assert yaml.safe_load((ROOT / "recipes" / "demo" / "evaluate.yaml").read_text())["examples"] == 5


def test_a_softmax_that_the_tokens_cannot_have_is_refused_before_the_first_step():
    for tokens, softmax in (("codes", "items"), ("prefixes", "vocabulary")):
        plan = make_plan("data", "run", overrides={"retriever": {"tokens": tokens, "output_softmax": softmax}})
        with pytest.raises(DataError, match=f"output_softmax with tokens: {tokens} must be .*got {softmax!r}"):
            check_settings(plan, plan.steps)


def test_a_softmax_over_all_items_takes_longer():
    plan = make_plan("data", "run")
    settings = {"retriever": {k: v for part in plan.arguments("retriever") for k, v in vars(part).items()}}
    few, more = (estimated_seconds(settings, (n, 20_000, 10**6), ["retriever"])["retriever"] for n in (50_000, 50_001))
    assert few > 2 * more


@pytest.mark.parametrize("epochs", ["-3", "0"])
def test_epochs_that_are_none_are_refused(epochs):
    plan = make_plan("data", "run", overrides={"retriever": {"num_train_epochs": epochs}})
    with pytest.raises(DataError, match=f"retriever.num_train_epochs must be .* 0.001.*{epochs}"):
        check_settings(plan, ["retriever"])
    plan = make_plan("data", "run", overrides={"retriever": {"num_train_epochs": "0.5"}})
    assert check_settings(plan, ["retriever"])["retriever"][1].num_train_epochs == 0.5


def test_what_a_step_may_take():
    assert [duration(seconds) for seconds in (0.3, 42, 88, 200, 9000)] == ["5 s", "40 s", "90 s", "3 min", "2.5 h"]
    steps = ("tokenizer", "retriever", "two_stage", "evaluate")
    plan = make_plan("data", "run", ROOT / "recipes" / "demo")
    settings = {step: {k: v for part in plan.arguments(step) for k, v in vars(part).items()} for step in steps}
    one = estimated_seconds(settings, (2400, 6000, 36_000), steps)
    ten = estimated_seconds(settings, (24_000, 60_000, 360_000), steps)
    assert list(one) == list(steps) and all(
        ten[step] > 2 * one[step] for step in ("tokenizer", "retriever", "evaluate")
    )
    assert 60 < sum(one.values()) < 240  # the demo


def test_steps_that_are_done_correct_what_is_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = StepClock({"a": 10.0, "b": 20.0, "c": 30.0})
    assert clock.start("a") == "about 10 s, 60 s with what follows"
    now[0] += 30  # three times as long as thought
    clock.done()
    assert clock.start("b") == "about 60 s, 2 min with what follows"
    now[0] += 0.5  # was there already: says nothing of the machine
    clock.done()
    assert clock.pace == 3 and clock.start("c") == "about 90 s"


def test_large_logs_are_measured_on_a_sample():
    assert users_to_ask(22_363, 12_101) == 22_363 and users_to_ask(35_598, 18_357) == 35_598
    assert users_to_ask(1_000_000, 1_000_000) == 20_000 and users_to_ask(5_000, 1_000_000) == 5_000
    few, many = (
        estimated_seconds({"evaluate": {}}, (10**6, users, 10**6), ["evaluate"])["evaluate"]
        for users in (20_000, 10**6)
    )
    assert few == many


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"eval_strategy": "no", "load_best_model_at_end": False}, "patience counts evaluations"),
        ({"metric_for_best_model": "nonsense"}, "metric_for_best_model must be one of loss, recall@5.*got nonsense"),
        ({"train_share": 2}, "retriever.train_share must be"),
        ({"user_tokens": -5}, "retriever.user_tokens must be"),
    ],
)
def test_settings_that_would_end_a_training_later_are_refused_before_the_first_step(settings, told):
    plan = make_plan("data", "run", overrides={"retriever": settings})
    with pytest.raises(DataError, match=told):
        check_settings(plan, plan.steps)
    plan = make_plan("data", "run", overrides={"retriever": {"eval_strategy": "no", "load_best_model_at_end": False}})
    plan.settings["retriever"]["patience"] = None
    assert check_settings(plan, plan.steps)


def test_a_share_of_hidden_times_is_a_share():
    plan = make_plan("data", "run", overrides={"two_stage": {"time_dropout": 7.0}})
    with pytest.raises(DataError, match="two_stage.time_dropout must be"):
        check_settings(plan, plan.steps)


def test_vectors_of_a_file_have_an_encoder_of_their_own(tmp_path):
    plan = make_plan("data", "run", embeddings=tmp_path / "vectors.safetensors")
    with pytest.raises(DataError, match="name the SentenceTransformer that made them .*--set tokenizer.encoder=NAME"):
        check_settings(plan, plan.steps)
