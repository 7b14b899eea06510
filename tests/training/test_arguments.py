from dataclasses import dataclass, field

import pytest
from transformers import TrainingArguments

from tiger.training.arguments import as_words, parse_arguments, read_arguments
from tiger.utils.errors import DataError


@dataclass
class Settings:
    dataset: str
    seeds: list[int] = field(default_factory=list)
    rate: float = 0.5
    name: str | None = None


def test_yaml_then_command_line(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("dataset: here\nseeds: [1, 2]\nrate: 1e-3\nlearning_rate: 1e-3\noutput_dir: out\nname: null\n")
    settings, training = parse_arguments(
        [Settings, TrainingArguments], [str(file), "--rate", "0.25", "--use_cpu", "true"]
    )
    assert settings == Settings("here", [1, 2], 0.25)
    assert training.learning_rate == 0.001 and training.output_dir == "out"
    other = tmp_path / "more.yaml"
    other.write_text("dataset: there\n")
    (settings,) = parse_arguments([Settings], [str(_yaml(tmp_path, "dataset: here")), str(other)])
    assert settings.dataset == "there"


def _yaml(folder, text):
    file = folder / "one.yaml"
    file.write_text(text)
    return file


def test_unknown_keys_and_files_are_errors(tmp_path):
    with pytest.raises(DataError, match="one.yaml: unknown key 'datset'. Did you mean 'dataset'"):
        parse_arguments([Settings], [str(_yaml(tmp_path, "datset: here"))])
    with pytest.raises(DataError, match="command line: unknown key 'raet'"):
        parse_arguments([Settings], ["--dataset", "x", "--raet", "1"])
    with pytest.raises(DataError, match="nowhere.yaml is missing"):
        parse_arguments([Settings], ["nowhere.yaml"])
    with pytest.raises(DataError, match="is not YAML"):
        parse_arguments([Settings], [str(_yaml(tmp_path, "a: [1"))])
    with pytest.raises(DataError, match="is not YAML: month must be in 1..12"):
        parse_arguments([Settings], [str(_yaml(tmp_path, "name: 2024-13-45"))])
    with pytest.raises(DataError, match="key: value"):
        parse_arguments([Settings], [str(_yaml(tmp_path, "- a"))])


def test_keys_that_changed_work_for_one_release(tmp_path):
    @dataclass
    class Settings:
        baselines: bool = True
        num_seeds: int = 1

    (tmp_path / "a.yaml").write_text("committee: 3\n")
    with pytest.warns(DeprecationWarning, match="is now") as caught:
        (found,) = parse_arguments([Settings], [str(tmp_path / "a.yaml"), "--no-yardsticks"])
    assert found == Settings(baselines=False, num_seeds=3)
    assert {str(one.message).split(".")[0] for one in caught} == {
        "committee is now num_seeds",
        "no_yardsticks is now no_baselines",
    }
    with pytest.raises(DataError, match="unknown key 'log_weight'"):
        parse_arguments([Settings], ["--log_weight", "1"])


def test_an_empty_list_is_a_value(tmp_path):
    @dataclass
    class Head:
        hidden_sizes: list[int] = field(default_factory=lambda: [128, 64])
        gate: bool = False
        rate: float = 0.5

    assert parse_arguments([Head], [str(_yaml(tmp_path, "hidden_sizes: []\nrate: 0.25"))]) == (Head([], rate=0.25),)
    assert read_arguments([Head], {"hidden_sizes": ()}) == (Head([]),)
    assert parse_arguments([Head], as_words({"hidden_sizes": [], "gate": True})) == (Head([], True),)  # a process's
    assert parse_arguments([Head], [str(_yaml(tmp_path, "hidden_sizes: []")), "--hidden_sizes", "8"]) == (Head([8]),)
    for key in ("gate", "rate"):  # that the flag is given, and no more, would mean true
        with pytest.raises(DataError, match=f"settings: {key} is an empty list, but takes one value"):
            parse_arguments([Head], [str(_yaml(tmp_path, f"{key}: []"))])
