"""All of a recommender by one call or one command, and the recipes that come with the library."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from transformers import TrainingArguments

import tiger
from tests.conftest import make_tokenizer
from tests.processes import kill_at_checkpoint, run_python
from tests.recipes.test_ranking_experiment import write_dataset
from tiger.data.dataset import RecommendationData
from tiger.quantizers.rqvae import RQVAEConfig
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.config import retriever_config, t5_config
from tiger.training import pipeline
from tiger.training.arguments import read_arguments
from tiger.training.pipeline import find_recipe, make_plan, read_overrides, train
from tiger.training.retriever import RetrieverArguments
from tiger.training.tokenizer import TokenizerArguments
from tiger.utils.errors import DataError

ROOT = Path(__file__).parents[2]
SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 1, "bf16": False, "report_to": "none"}
SIZES |= {"eval_users": 50, "min_steps": 0, "num_train_epochs": 1, "disable_tqdm": True}
SMALL = {
    "tokenizer": {"codebook_size": 8, "embedding_dim": 8},
    "retriever": SIZES,
    "two_stage": {"max_trees": 5, "num_beams": 10, "num_seeds": 1, "keep": "trees"},
    "evaluate": {"num_beams": 10, "bf16": False},
}


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "data")


def changes(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_one_call_trains_everything_and_again_nothing(dataset, tmp_path, capsys):
    out = tmp_path / "run"
    recommender = tiger.train(str(dataset), out, **SMALL)
    said = capsys.readouterr().out
    assert [line.partition(", about ")[0] for line in said.splitlines() if line.startswith("step ")] == [
        "step 1 of 4: fitting the semantic IDs",
        "step 2 of 4: training the T5",
        "step 3 of 4: training the second stage",
        "step 4 of 4: measuring on test items",
    ]
    assert "{" not in said and said.count("with what follows") == 3  # no dicts; of each step, what is left after it
    assert isinstance(recommender, TigerRecommender) and recommender.ranker.record["trees"][0] >= 1
    assert recommender.tokenizer.codebook_size == 8 and recommender.tokenizer.tokens == "prefixes"
    settings = retriever_config(recommender.model)  # of the default recipe
    assert (settings.output_softmax, settings.recent_items) == ("items", 32)
    metrics = json.loads((out / "test.json").read_text())
    split = RecommendationData.load(dataset).leave_one_out()
    # A third of the next items stand in the history of this log: they stay in the answers.
    assert metrics["exclude_history"] is False and "31.3% of the next items are in the history" in said
    answers, _ = recommender.recommend_rows(split.test_histories, num_beams=10, exclude_history=False)
    assert metrics["recall@10"] == pytest.approx((answers == split.test_targets[:, None]).any(axis=1).mean(), abs=1e-5)
    assert metrics["users"] == len(split.users) and metrics["recall@10"] > 0.2  # 10 of 120 at random: 0.08

    before = changes(out)
    again = tiger.train(str(dataset), out, **SMALL, steps=["tokenizer", "retriever", "two_stage"])
    said = capsys.readouterr().out
    assert "is there" in said and "is a finished run" in said and "second stage of these settings" in said
    assert changes(out) == before
    same = again.recommend_rows(split.test_histories, num_beams=10, exclude_history=False)[0]
    assert np.array_equal(same, answers)
    results = (out / "test.json").stat().st_mtime_ns
    tiger.train(str(dataset), out, **SMALL)
    assert "has the results of this model" in capsys.readouterr().out
    assert (out / "test.json").stat().st_mtime_ns == results

    # Other settings: the second stage is made anew, what stands on something else is refused.
    other = SMALL | {"two_stage": SMALL["two_stage"] | {"seed": 1}}
    tiger.train(str(dataset), out, **other, steps=["two_stage"])
    assert changes(out / "model" / "ranker") != {k: v for k, v in before.items() if "/model/ranker/" in k}
    tiger.train(str(dataset), out, **other, steps=["evaluate"])
    assert (out / "test.json").stat().st_mtime_ns > results  # of another model
    with pytest.raises(DataError, match="learning_rate: 0.001 -> 0.5"):
        tiger.train(str(dataset), out, **(SMALL | {"retriever": SIZES | {"learning_rate": 0.5}}), steps=["retriever"])
    with pytest.raises(DataError, match="fitted with other settings"):
        tiger.train(str(dataset), out, **(SMALL | {"tokenizer": {"seed": 3}}))

    # Older versions noted the tokenizer's settings as the YAML's text and a command line.
    words = [f"--{key}" if at == 0 else str(value) for key, value in SMALL["tokenizer"].items() for at in (0, 1)]
    words += ["--dataset", str(dataset), "--output_dir", str(out / "tokenizer")]
    old = {"recipe": (find_recipe("default") / "tokenizer.yaml").read_text(), "options": words}
    (out / "tokenizer.json").write_text(json.dumps(old))
    tiger.train(str(dataset), out, **SMALL, steps=["tokenizer"])
    (out / "tokenizer.json").write_text(json.dumps(old | {"options": [*words, "--seed", "1"]}))
    with pytest.raises(DataError, match="fitted with other settings"):
        tiger.train(str(dataset), out, **SMALL, steps=["tokenizer"])


def test_tables_and_loaded_data_in_place_of_a_directory(dataset, tmp_path):
    data = RecommendationData.load(dataset)
    tables = tuple(pq.read_table(dataset / f"{name}.parquet") for name in ("items", "interactions"))
    for number, given in enumerate((data, tables, tuple(table.to_pandas() for table in tables))):
        written = RecommendationData.load(pipeline.write_dataset(given, tmp_path / f"copy-{number}"))
        assert written.item_ids == data.item_ids and written.user_ids.to_pylist() == data.user_ids.to_pylist()
        assert np.array_equal(written.sequences.items, data.sequences.items)
        assert np.array_equal(written.sequences.timestamps, data.sequences.timestamps)
        assert np.array_equal(written.extras["rating"], data.extras["rating"])
    before = changes(tmp_path / "copy-0")
    pipeline.write_dataset(tables, tmp_path / "copy-0")
    assert changes(tmp_path / "copy-0") == before
    with pytest.raises(DataError, match="holds other data"):
        pipeline.write_dataset((tables[0], tables[1].slice(0, 900)), tmp_path / "copy-0")


def test_mistakes_are_refused_before_anything_is_done(dataset, tmp_path):
    with pytest.raises(DataError, match="nowhere is not a recipe: .* default, paper"):
        train(dataset, tmp_path / "run", "nowhere")
    with pytest.raises(DataError, match="'twostage' is not a step"):
        train(dataset, tmp_path / "run", twostage={})
    with pytest.raises(DataError, match="unknown key 'sed'. Did you mean 'seed'"):
        train(dataset, tmp_path / "run", retriever={"sed": 1})
    with pytest.raises(DataError, match="unknown key 'beams'"):
        train(dataset, tmp_path / "run", evaluate={"beams": 1})
    with pytest.raises(DataError, match="invalid int value: 'many'"):
        train(dataset, tmp_path / "run", tokenizer={"seed": "many"})
    # What the last step would find after hours.
    wrong = {"two_stage": {"num_leaves": 1}, "evaluate": {"num_beams": 3}, "tokenizer": {"quantizer": "pq"}}
    wrong["retriever"] = {"start_from": "lgo:1"}
    for step, settings in wrong.items():
        with pytest.raises(DataError, match=next(iter(settings)) if step != "tokenizer" else "'pq'"):
            train(dataset, tmp_path / "run", **{step: settings})
    with pytest.raises(DataError, match="settings of retriever: .*save and eval strategy"):
        train(dataset, tmp_path / "run", retriever={"eval_strategy": "no"})
    with pytest.raises(DataError, match="retriever.embeddings: no.safetensors is not a file"):
        train(dataset, tmp_path / "run", embeddings="no.safetensors", steps=["retriever"])
    assert not (tmp_path / "run").exists()
    assert read_overrides(["retriever.seed=1", "two_stage.users=5", "retriever.start_from=log:3, words:1"]) == {
        "retriever": {"seed": "1", "start_from": "log:3, words:1"},
        "two_stage": {"users": "5"},
    }
    for wrong in ("retriever.seed", "seed=1", "retriever.=1", "retriever.seed="):
        with pytest.raises(DataError, match="give step.key=value"):
            read_overrides([wrong])


def test_settings_of_a_step(dataset):
    plan = make_plan(
        dataset, "run", embeddings="vectors.safetensors", processes=2, overrides={"retriever": {"seed": 7}}
    )
    args, training = read_arguments([RetrieverArguments, TrainingArguments], plan.settings["retriever"])
    assert args.tokenizer == "run/tokenizer" and args.model_dir == plan.model == "run/model"
    assert training.seed == 7 and training.learning_rate == 1e-3 and args.start_from == "log:3, words:3, texts:2"
    assert training.per_device_train_batch_size == 256  # half of the recipe's on each of two processes
    assert {plan.settings[step]["embeddings"] for step in ("tokenizer", "retriever", "two_stage")} == {
        "vectors.safetensors"
    }
    assert plan.settings["evaluate"]["num_beams"] == 50
    assert make_plan(dataset, "run", "paper").steps == ["tokenizer", "retriever", "evaluate"]
    # None is a field's default.
    (tokenizer,) = read_arguments([TokenizerArguments], {"dataset": "d", "output_dir": "o", "num_codebooks": None})
    assert tokenizer.num_codebooks == 3


def test_every_setting_is_documented():
    for kinds in pipeline.KINDS.values():
        for name, field in kinds[0].__dataclass_fields__.items():
            assert field.metadata.get("help"), name
    from tiger.training.click_ranker import RankerArguments

    assert all(field.metadata.get("help") for field in RankerArguments.__dataclass_fields__.values())


def test_the_paper_recipe_has_the_numbers_of_the_paper():
    """TIGER, arXiv 2305.05065, sections 3.1 and 4."""
    plan = make_plan("data", "run", "paper")
    (tokenizer,) = read_arguments([TokenizerArguments], plan.settings["tokenizer"])
    assert tokenizer.encoder == "sentence-transformers/sentence-t5-base" and tokenizer.cooccurrence_weight == 0
    assert (tokenizer.quantizer, tokenizer.num_codebooks, tokenizer.codebook_size) == ("rqvae", 3, 256)
    rqvae = RQVAEConfig(input_dim=768)  # whose own sizes no recipe changes
    assert tuple(rqvae.hidden_sizes) == (512, 256, 128) and rqvae.latent_dim == 32 and rqvae.commitment_weight == 0.25
    args, _ = read_arguments([RetrieverArguments, TrainingArguments], plan.settings["retriever"])
    assert (args.tokens, args.start_from, args.max_history) == ("codes", "", 20)
    names = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers", "dropout_rate")
    config = t5_config(make_tokenizer(20), **{name: getattr(args, name) for name in names})
    assert (config.num_layers, config.num_decoder_layers, config.num_heads, config.d_kv) == (4, 4, 6, 64)
    assert (config.d_model, config.d_ff, config.dropout_rate) == (128, 1024, 0.1)
    assert config.feed_forward_proj == "relu"


@pytest.mark.parametrize("name", ["beauty", "sports", "toys"])
def test_the_paper_recipes_of_the_sets_are_the_same(name):
    places = {"dataset", "output_dir", "tokenizer", "model_dir", "models", "results_dir", "template"}
    for step in ("tokenizer", "retriever", "evaluate"):
        of_set, own = (
            yaml.safe_load((folder / f"{step}.yaml").read_text())
            for folder in (ROOT / "recipes" / "paper" / name, find_recipe("paper"))
        )
        assert {key: value for key, value in of_set.items() if key not in places} == own


def test_the_checkout_has_one_copy_of_the_default_recipe():
    assert (ROOT / "recipes" / "default").resolve() == find_recipe("default").resolve()


def test_a_killed_command_goes_on_where_it_was(dataset, tmp_path):
    out = tmp_path / "run"
    epochs = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 5, "save_steps": 5, "max_steps": 60}
    options = {"tokenizer": SMALL["tokenizer"], "retriever": SIZES | epochs, "two_stage": SMALL["two_stage"]}
    options["evaluate"] = SMALL["evaluate"]
    words = [f"{step}.{key}={value}" for step, settings in options.items() for key, value in settings.items()]
    command = ["-m", "tiger.cli", "train", str(dataset), "--out", str(out), "--json", "--set", *words]
    kill_at_checkpoint(command, out / "training", tmp_path)
    assert not (out / "model").exists()
    before = changes(out / "tokenizer")
    steps = [int(path.name.split("-")[1]) for path in out.glob("training/checkpoint-*")]

    done = run_python(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)  # and nothing else is there
    assert answer["model"] == str(out / "model") and 0 < answer["test"]["recall@10"] <= 1
    assert changes(out / "tokenizer") == before and f"{out / 'tokenizer'} is there" in done.stderr
    assert "step 2 of 4: training the T5" in done.stderr
    assert TigerRecommender.from_pretrained(out / "model").training["steps"] == 60 and min(steps) >= 5
    # The first steps were not taken again: their evaluations are those of before the kill, and stand once.
    (last,) = out.glob("training/checkpoint-60")
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    assert [row["step"] for row in history if "eval_loss" in row] == list(range(5, 61, 5))


def test_values_that_equal_nothing_are_no_other_data(dataset, tmp_path):
    """NaN prices, and ratings that are missing in some rows alone, which become NaN."""
    items, events = (pq.read_table(dataset / f"{name}.parquet") for name in ("items", "interactions"))
    items = items.append_column("weight", pa.array([math.nan, *[1.0] * (len(items) - 1)]))
    ratings = pa.array([None, *[2.0] * (len(events) - 1)], pa.float64())
    events = events.set_column(events.column_names.index("rating"), "rating", ratings)
    for _ in range(2):
        pipeline.write_dataset((items, events), tmp_path / "copy")


def test_the_same_folders_by_other_names_are_the_same_run(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dataset.parent == tmp_path
    tiger.train(dataset.name, "run", **SMALL, steps=["tokenizer", "retriever"])
    before = changes(tmp_path / "run" / "model")
    for name in (f"./{dataset.name}", str(dataset)):
        tiger.train(name, "run", **SMALL, steps=["tokenizer", "retriever"])
    tiger.train(dataset.name, tmp_path / "run", **SMALL, steps=["tokenizer", "retriever"])
    (tmp_path / "run").rename(tmp_path / "moved")
    tiger.train(dataset.name, "moved", **SMALL, steps=["tokenizer", "retriever"])
    assert sorted(changes(tmp_path / "moved" / "model").values()) == sorted(before.values())
    other = SMALL | {"tokenizer": SMALL["tokenizer"] | {"seed": 5}}
    with pytest.raises(DataError, match="fitted with other settings .seed: 0 -> 5.: give those"):
        tiger.train(dataset.name, "moved", **other, steps=["tokenizer"])


def test_settings_that_no_step_reads_are_refused(dataset, tmp_path):
    with pytest.raises(DataError, match="recipe paper has no two_stage.yaml: nothing would read the settings"):
        train(dataset, tmp_path / "run", "paper", two_stage={"users": 100})
