"""``--device`` and the precision of a search, of every command that computes."""

import os

import pytest
import torch

from tests.cli.test_bad_input import one_line
from tests.cli.test_main import folder, tiger  # noqa: F401
from tests.recommender.test_recommender import fitted  # noqa: F401
from tiger.recommender.recommender import TigerRecommender
from tiger.training.arguments import read_arguments
from tiger.training.retriever import RetrieverArguments
from tiger.utils import devices

NOWHERE = "nonsense"


@pytest.mark.parametrize(
    "words",
    [
        ("recommend",),
        ("rank", "--candidates", "i1"),
        ("evaluate", "data"),
        ("items", "remove", "i1"),
        ("items", "report"),
        ("serve",),
        ("app",),
        ("train", "--out", "nowhere"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_device_that_is_not_there_is_named(tiger, folder, words):  # noqa: F811
    at = 2 if words[0] == "items" else 1
    arguments = (*words[:at], folder, *words[at:], "--device", NOWHERE)
    assert f"there is no device '{NOWHERE}' here" in one_line(tiger(*arguments, code=2))


def test_training_takes_no_number_of_a_card(tiger, folder):  # noqa: F811
    shown = tiger("train", folder, "--out", "nowhere", "--device", "cuda:1", code=2)
    assert "CUDA_VISIBLE_DEVICES" in one_line(shown)


def test_the_device_reaches_every_step_and_no_later_run(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.delenv(devices.DEVICE_VARIABLE, raising=False)
    assert devices.fastest() == torch.device("cuda")
    with devices.using_device("cpu"):
        assert devices.fastest() == torch.device("cpu") and os.environ[devices.DEVICE_VARIABLE] == "cpu"
        needed = {"dataset": "d", "tokenizer": "t", "model_dir": "m", "output_dir": "o"}
        from transformers import TrainingArguments

        _, training = read_arguments((RetrieverArguments, TrainingArguments), needed)
        assert training.use_cpu
    assert devices.fastest() == torch.device("cuda") and devices.DEVICE_VARIABLE not in os.environ
    with devices.using_device(None):
        assert devices.fastest() == torch.device("cuda")


@pytest.mark.parametrize("flags, expected", [((), None), (("--no_bf16",), False)], ids=["by the device", "float32"])
def test_the_precision_of_a_single_history(tiger, folder, monkeypatch, flags, expected):  # noqa: F811
    given = []
    right = TigerRecommender.recommend
    monkeypatch.setattr(
        TigerRecommender,
        "recommend",
        lambda self, *args, **options: given.append(options["bf16"]) or right(self, *args, **options),
    )
    tiger("recommend", folder, "-k", 3, *flags)
    assert given == [expected]
