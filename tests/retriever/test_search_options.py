"""The search options have one definition; the library, the command line, the service and the app agree with it."""

import argparse
import inspect
from dataclasses import fields

import numpy as np
import pytest

from tiger.cli.search_options import FLAGS, add_search_options, search_options
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.search_options import SearchOptions
from tiger.utils.errors import DataError

OPTIONS = {one.name: one for one in fields(SearchOptions)}


def test_every_option_is_documented():
    for name, option in OPTIONS.items():
        assert option.metadata["help"] and f"        {name}: " in SearchOptions.__doc__


def test_the_recommender_passes_them_on():
    parameters = inspect.signature(TigerRecommender.recommend).parameters
    assert parameters["search"].kind is inspect.Parameter.VAR_KEYWORD and not set(OPTIONS) & set(parameters)


def test_the_command_line_has_them():
    assert set(FLAGS) | {"exclude_history", "memory", "bf16", "progress"} == set(OPTIONS)
    parser = argparse.ArgumentParser()
    add_search_options(parser)
    defaults = {name: one.default for name, one in OPTIONS.items() if name not in ("bf16", "progress")}
    assert search_options(parser.parse_args([]), at_least=10) == defaults
    shown = " ".join(parser.format_help().split())
    assert all(OPTIONS[name].metadata["help"] in shown for name in FLAGS)
    given = [
        "--keep_history",
        "--no_memory",
        "--no_rank",
        "--num_beams",
        "3",
        "--temperature",
        "2",
        "--seed",
        "1",
        "--batch_users",
        "5",
    ]
    expected = {"num_beams": 10, "temperature": 2.0, "seed": 1, "batch_size": 5, "exclude_history": False}
    expected |= {"memory": False, "rank": False}
    assert search_options(parser.parse_args(given), at_least=10) == expected
    with pytest.raises(DataError, match="--batch_users must be at least 1, got 0"):
        search_options(parser.parse_args(["--batch_users", "0"]), at_least=1)


def test_the_service_has_them():
    pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")
    from tiger.serving.schemas import RecommendRequest

    asked = RecommendRequest.model_fields
    assert set(OPTIONS) - set(asked) == {"batch_size", "memory", "bf16", "progress"}  # the service's own affair
    for name in set(OPTIONS) & set(asked):
        assert asked[name].default == OPTIONS[name].default
        assert asked[name].description.lower().startswith(OPTIONS[name].metadata["help"].lower())


def test_the_app_has_them():
    gradio_app = pytest.importorskip("tiger.serving.gradio_app", reason="needs the extra [app]", exc_type=ImportError)
    _, beams, temperature, exclude, _ = gradio_app._settings(has_ranker=False)
    assert beams.value == OPTIONS["num_beams"].default and exclude.value == OPTIONS["exclude_history"].default
    assert beams.info.lower() == OPTIONS["num_beams"].metadata["help"] and temperature.value == 0


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("num_beams", 0, "at least 1"),
        ("num_beams", -3, "at least 1"),
        ("num_beams", 10**9, "at most 1000000"),
        ("num_beams", 2.5, "a whole number"),
        ("num_beams", True, "a whole number"),
        ("num_beams", None, "a whole number"),
        ("batch_size", 0, "at least 1"),
        ("temperature", 0.0, "at least 0.001"),
        ("temperature", -1, "at least 0.001"),
        ("temperature", float("nan"), "a finite number"),
        ("temperature", float("inf"), "a finite number"),
        ("temperature", "1", "a finite number"),
        ("seed", -1, "at least 0"),
        ("seed", 2**70, "at most"),
        ("exclude_history", "no", "True or False"),
    ],
)
def test_values_out_of_range_or_of_another_type_are_refused(name, value, why):
    with pytest.raises(DataError, match=f"^{name} must be {why}"):
        SearchOptions(**{name: value})


def test_values_of_numpy_are_accepted():
    options = SearchOptions(num_beams=np.int64(3), temperature=np.float32(2), exclude_history=np.bool_(False), seed=0)
    assert options.num_beams == 3 and options.temperature == 2
