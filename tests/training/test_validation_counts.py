"""Validation events are counted once the second stage is fitted, and taken out before anything learns from them."""

import json
import re
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import tiger
from recipes import memory as memory_recipe
from recipes.experiments import beams, ensemble
from recipes.tables import ROOT
from tests.retriever.test_memory import ITEMS, make_texts, make_weights
from tests.training.test_pipeline import SMALL, write_dataset
from tests.training.test_warm_start import STEPS
from tiger.cli.main import main
from tiger.data.cooccurrence import floored_totals
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut
from tiger.evaluation.evaluator import NextItemEvaluation
from tiger.evaluation.training_split import counts_validation, split_of_model, suffix_of
from tiger.rankers.two_stage.choice import OrderChoice
from tiger.rankers.two_stage.ranker import NothingToLearn
from tiger.recommender.model_card import model_card
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.memory import ItemMemory, MemoryTables
from tiger.training import two_stage
from tiger.training.evaluation import EvaluationArguments, comparisons_of, name_alone
from tiger.training.validation_counts import with_validation_counts, without_validation_counts
from tiger.utils.digests import file_digests
from tiger.utils.errors import DataError

AUTO = SMALL | {"two_stage": SMALL["two_stage"] | {"keep": "auto"}}


def make_split():
    random = np.random.default_rng(5)
    rows = [random.integers(0, ITEMS, 6) for _ in range(80)]
    last = np.array([row[-1] for row in rows])
    train = Sequences.from_rows([row[:-1] for row in rows])
    return LeaveOneOut(np.arange(80), train, last, Sequences.from_rows(rows), last, 0)


def make_tiger(split, memory=True):
    tables = MemoryTables.fit(split.train, make_texts())
    memory = ItemMemory(tables, make_weights()) if memory else None
    return SimpleNamespace(memory=memory, training={"seed": 3}, ranker=None)


def tables_of(tiger):
    tables = tiger.memory.tables
    return [*(getattr(tables, name).toarray() for name in ("followers", "shared", "neighbors")), tables.totals]


def test_counts_are_those_of_a_memory_fitted_to_both_parts_and_go_back():
    split = make_split()
    model = make_tiger(split)
    before, weights = tables_of(model), model.memory.weights
    assert without_validation_counts(model, split) == split  # nothing to take out
    assert model.training == {"seed": 3}
    with_validation_counts(model, split)
    expected = MemoryTables.fit(split.test_histories, make_texts())
    for found, wanted in zip(tables_of(model), tables_of(SimpleNamespace(memory=ItemMemory(expected, weights)))):
        np.testing.assert_array_equal(found, wanted)
    assert counts_validation(model.training) and model.memory.weights is weights
    assert (tables_of(model)[0] != before[0]).any()
    marked = replace(split, valid_counted=True)
    assert without_validation_counts(model, marked).part("valid")[1] is split.valid_targets
    assert model.training == {"seed": 3}
    for found, wanted in zip(tables_of(model), before):
        np.testing.assert_array_equal(found, wanted)


def test_what_has_counted_validation_events_is_named():
    split = make_split()
    model = make_tiger(split)
    assert (suffix_of(model.training), name_alone(model)) == ("", "tiger")
    with_validation_counts(model, split)
    assert (suffix_of(model.training), name_alone(model)) == ("-with-validation", "tiger-with-validation")
    alone = make_tiger(split, memory=False)
    with_validation_counts(alone, split)
    assert name_alone(alone) == "tiger"  # a T5 without a memory has counted nothing


def test_promises_are_compared_with_the_hybrid_of_the_same_counts():
    targets = np.zeros(40, dtype=np.int64)
    right = np.tile(np.arange(10), (40, 1))
    wrong = right + 1
    answers = {"popularity": wrong, "hybrid": right, "hybrid-with-validation": wrong, "tiger-with-validation": right}
    found = {name: NextItemEvaluation.of(rows, targets) for name, rows in answers.items()}
    compared = comparisons_of(found, "tiger-with-validation", "-with-validation")
    assert [(one["model"], one["baseline"], one["difference"]) for one in compared] == [
        ("tiger-with-validation", "popularity", 1.0),
        ("tiger-with-validation", "hybrid-with-validation", 1.0),
    ]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """``data``; ``run``, a training by the default recipe; ``plain``, its T5 before the second stage."""
    work = tmp_path_factory.mktemp("counted")
    dataset = write_dataset(work / "data")
    tiger.train(str(dataset), work / "run", **SMALL, steps=["tokenizer", "retriever"])
    shutil.copytree(work / "run" / "model", work / "plain")
    tiger.train(str(dataset), work / "run", **SMALL)
    return work


def counted_events(recommender, dataset):
    """Histories of the test in the recommender's rows, whose events all counts should hold."""
    data = RecommendationData.load(str(dataset)).in_order(recommender.tokenizer.item_ids)
    histories = data.leave_one_out().test_histories
    assert recommender.memory.tables.totals.sum() == floored_totals(histories, data.num_items).sum()
    return histories


def test_the_default_recipe_counts_validation_events_and_says_so(work, capsys):
    found = json.loads((work / "run" / "test.json").read_text())
    counted = ["hybrid-with-validation", *(f"{name}-with-validation" for name in ("memory", "tiger", "two-stage"))]
    assert list(found["models"]) == ["popularity", "transition", "content", "hybrid", *counted]
    assert [(one["model"], one["baseline"]) for one in found["comparisons"]] == [
        ("tiger-with-validation", "popularity"),
        ("two-stage-with-validation", "hybrid-with-validation"),
    ]
    assert found["counts_validation"] is True
    recommender = TigerRecommender.from_pretrained(work / "run")
    assert len(recommender.ranker.candidates.events) == len(counted_events(recommender, work / "data").items)
    page = (work / "run" / "report.html").read_text()
    assert "<td>validation events</td><td>counted, once all was fitted</td>" in page
    assert all(f"<td>{name}</td>" in page for name in found["models"])
    assert re.search("N@10 of two-stage-with-validation is .{6} (above|below) that of hybrid-with-validation", page)
    assert "Its counts hold validation events too, but no test event" in model_card(recommender.state, "me/shop")
    main(["info", str(work / "run")])
    assert "counts with validation events" in capsys.readouterr().out


def test_a_log_without_texts_is_compared_with_a_transition_of_the_same_counts(work, monkeypatch):
    from tiger.training import evaluation

    monkeypatch.setattr(evaluation, "item_texts", lambda items, required: [""] * len(items))
    args = EvaluationArguments(num_beams=10, bf16=False, users=40)
    found = evaluation.measure(str(work / "run" / "model"), str(work / "data"), args)
    assert list(found["models"])[:3] == ["popularity", "transition", "transition-with-validation"]
    assert found["comparisons"][1]["baseline"] == "transition-with-validation"


@pytest.fixture
def retrained(work, tmp_path, monkeypatch):
    """Fit the second stage anew in a copy of the run, the order being decided or the fit failing; seconds are 0."""
    out = tmp_path / "run"
    shutil.copytree(work / "run", out)
    monkeypatch.setattr(two_stage.time, "perf_counter", lambda: 0.0)

    def train(order=None, settings=AUTO, recommender=work / "plain"):
        if recommender is not None:
            shutil.rmtree(out / "model")
            shutil.copytree(recommender, out / "model")
            (out / "two_stage.json").unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            if order == "nothing":
                patch.setattr(two_stage, "_fit", lambda *_: (_ for _ in ()).throw(NothingToLearn("no target.")))
            elif order is not None:
                numbers = dict.fromkeys(("trees", "hybrid", "t5"), 0.5)
                patch.setattr(OrderChoice, "of", classmethod(lambda cls, *_: cls(order, numbers)))
            tiger.train(str(work / "data"), out, **settings, steps=["two_stage", "evaluate"])
        return TigerRecommender.from_pretrained(out), json.loads((out / "test.json").read_text())

    train.out = out
    return train


@pytest.mark.parametrize("order", ["trees", "hybrid", "t5", "nothing"])
def test_whatever_order_is_kept_all_that_counts_has_counted_validation(order, work, retrained, capsys):
    recommender, found = retrained(order)
    histories = counted_events(recommender, work / "data")
    assert counts_validation(recommender.training)
    assert recommender.training["second_stage"]["order"] == ("t5" if order == "nothing" else order)
    stages = ["hybrid", "hybrid-with-validation", "memory-with-validation", "tiger-with-validation"]
    if order in ("t5", "nothing"):
        assert recommender.ranker is None
    else:
        stages.append("two-stage-with-validation")
        assert len(recommender.ranker.candidates.events) == len(histories.items)
        assert bool(recommender.ranker.trees) is (order == "trees")
    assert list(found["models"])[3:] == stages
    last = found["comparisons"][1]
    assert (last["model"], last["baseline"]) == (stages[-1], "hybrid-with-validation")
    assert "counted, once all was fitted" in (retrained.out / "report.html").read_text()
    capsys.readouterr()
    options = ["--num_beams", "10", "--no_bf16", "--no_memory", "--json"]
    if order == "trees":  # they have learned from searches with the memory
        assert recommender.ranker.learned_with_memory is True
        with pytest.raises(SystemExit):
            main(["evaluate", str(retrained.out), str(work / "data"), *options])
        assert "learned from searches with a memory" in (told := capsys.readouterr().err) and "--no_rank" in told
        options.append("--no_rank")
    main(["evaluate", str(retrained.out), str(work / "data"), *options])
    # Without a memory, a second stage alone reads counts.
    assert ("counts_validation" in json.loads(capsys.readouterr().out)) is (order == "hybrid")


def test_a_t5_alone_without_a_memory_has_counted_nothing(work, retrained, tmp_path):
    plain = TigerRecommender.from_pretrained(work / "plain")
    plain.memory = None
    plain.training = {name: value for name, value in plain.training.items() if name != "memory"}
    plain.save_pretrained(tmp_path / "plain")
    recommender, found = retrained("t5", recommender=tmp_path / "plain")
    assert not counts_validation(recommender.training)
    assert list(found["models"])[3:] == ["hybrid", "tiger"]
    assert "nothing in it counts" in (retrained.out / "report.html").read_text()
    # A second stage over it counts alone.
    recommender, found = retrained("trees", recommender=tmp_path / "plain")
    assert list(found["models"])[3:] == ["hybrid", "hybrid-with-validation", "tiger", "two-stage-with-validation"]
    assert counts_validation(recommender.training) and recommender.ranker.learned_with_memory is False


@pytest.mark.parametrize("order", ["trees", "t5"])
def test_a_run_that_was_killed_in_the_second_stage_ends_with_the_same_bytes(order, retrained, monkeypatch):
    retrained(order)
    whole = file_digests(retrained.out / "model")

    def killed(*_):
        raise KeyboardInterrupt

    # Before the recommender is written, and between that and the note of it.
    for place in ("TigerRecommender.save_pretrained", "write_atomically"):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            name = "tiger.training.two_stage." if "save" in place else "tiger.training.pipeline."
            patch.setattr(name + place, killed)
            retrained(order)
        assert not (retrained.out / "two_stage.json").exists()
        retrained(order, recommender=None)
        assert file_digests(retrained.out / "model") == whole, place


def test_a_second_stage_fitted_again_over_counts_learns_the_same(retrained):
    retrained("trees")
    whole = file_digests(retrained.out / "model")
    (retrained.out / "two_stage.json").unlink()
    retrained("trees", recommender=None)
    assert file_digests(retrained.out / "model") == whole
    # And without them, as if they had never been counted.
    off = AUTO | {"two_stage": AUTO["two_stage"] | {"count_validation": False}}
    retrained("trees", off)
    never = file_digests(retrained.out / "model")
    retrained("trees")
    recommender, found = retrained("trees", off, recommender=None)
    assert file_digests(retrained.out / "model") == never and not counts_validation(recommender.training)
    assert list(found["models"])[-3:] == ["memory", "tiger", "two-stage"]
    assert "counts hold training events alone" in (retrained.out / "report.html").read_text()


def test_who_goes_on_from_counts_with_validation_counts_anew(work, tmp_path):
    parent = work / "run" / "model"
    small = SMALL | {"retriever": SMALL["retriever"] | {"min_steps": 8}}
    child = tiger.train(str(work / "data"), tmp_path / "child", **small, init_from=parent, steps=STEPS)
    data = RecommendationData.load(work / "data").in_order(child.tokenizer.item_ids)
    assert not counts_validation(child.training)
    assert child.memory.totals.sum() == floored_totals(data.leave_one_out().train, data.num_items).sum()
    # Where nothing is held out, all events are counted and nothing says otherwise.
    events = {name: value for name, value in small.items() if name != "evaluate"}
    whole = tiger.train(str(work / "data"), tmp_path / "whole", **events, init_from=parent, split="all")
    assert not counts_validation(whole.training) and whole.ranker is not None
    assert len(whole.ranker.candidates.events) == len(data.sequences.items)
    assert whole.memory.totals.sum() == floored_totals(data.sequences, data.num_items).sum()
    assert "counted, as all events" in (tmp_path / "whole" / "report.html").read_text()


def test_the_validation_part_of_what_counts_it_is_refused_until_the_counts_are_out(work):
    recommender = TigerRecommender.from_pretrained(work / "run")
    data = RecommendationData.load(work / "data").in_order(recommender.tokenizer.item_ids)
    split, _ = split_of_model(data, np.arange(data.num_items), recommender.training, "data")
    with pytest.raises(DataError, match="hold validation events .two_stage.count_validation."):
        split.part("valid")
    assert split.part("test")[1] is split.test_targets and split.next_items[1] is split.valid_targets
    split = without_validation_counts(recommender, split)
    plain = TigerRecommender.from_pretrained(work / "plain")
    for found, wanted in zip(tables_of(recommender), tables_of(plain)):
        np.testing.assert_array_equal(found, wanted)
    assert split.part("valid")[1] is split.valid_targets


def test_the_command_measures_validation_without_their_counts(work, capsys):
    options = [str(work / "data"), "--num_beams", "10", "--no_bf16"]
    answers = {}
    for name in ("plain", "run"):
        main(["evaluate", str(work / name), *options, "--part", "valid", "--json"])
        captured = capsys.readouterr()
        answers[name] = json.loads(captured.out)
        assert ("these are taken out" in captured.err) is (name == "run")
    assert answers["run"] == answers["plain"]
    main(["evaluate", str(work / "run"), *options, "--json"])
    found = json.loads(capsys.readouterr().out)
    whole = json.loads((work / "run" / "test.json").read_text())
    assert found["counts_validation"] is True and found["ndcg@10"] == pytest.approx(whole["ndcg@10"], abs=1e-5)
    main(["evaluate", str(work / "run"), *options])
    assert "counts hold validation events, as those of hybrid-with-validation do" in capsys.readouterr().out


def test_the_command_refuses_validation_of_another_log(work, tmp_path, capsys):
    other = write_dataset(tmp_path / "other", seed=1)
    command = ["evaluate", str(work / "run"), str(other), "--num_beams", "10", "--part", "valid", "--allow-other-log"]
    with pytest.raises(SystemExit):
        main(command)
    assert "two_stage.count_validation" in capsys.readouterr().err


@pytest.mark.parametrize("script", [beams, ensemble])
def test_experiments_on_validation_items_measure_without_their_counts(script, work, tmp_path, monkeypatch):
    rows = {}
    for name in ("plain", "run/model"):
        argv = ["script.py", "--recommender", work / name, "--beams", 10, "--users", 200]
        if script is ensemble:
            argv = ["script.py", "--models", work / name, "--num_beams", 10]
        argv += ["--dataset", work / "data", "--results_dir", tmp_path / name]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        script.main()
        (file,) = (tmp_path / name).glob("*.json")
        rows[name] = json.loads(file.read_text())["rows"]
        rows[name] = [{key: value for key, value in row.items() if "seconds" not in key} for row in rows[name]]
    assert rows["run/model"] == rows["plain"]


def test_the_table_script_refuses_validation_items(work, tmp_path, monkeypatch):
    from recipes import evaluate

    argv = ["evaluate.py", "--dataset", work / "data", "--models", work / "run" / "model", "--part", "valid"]
    argv += ["--results_dir", tmp_path, "--baselines", "false"]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    with pytest.raises(DataError, match="two_stage.count_validation"):
        evaluate.main()
    assert not list(tmp_path.iterdir())


def test_a_memory_fitted_anew_counts_training_events_alone(work, retrained, monkeypatch):
    retrained("t5")
    argv = ["memory.py", "--recommender", retrained.out / "model", "--dataset", work / "data"]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    memory_recipe.main()
    again, plain = TigerRecommender.from_pretrained(retrained.out), TigerRecommender.from_pretrained(work / "plain")
    assert not counts_validation(again.training)
    assert again.training["memory"] | {"seconds": 0} == plain.training["memory"] | {"seconds": 0}
    for found, wanted in zip(tables_of(again), tables_of(plain)):
        np.testing.assert_array_equal(found, wanted)


def test_scripts_read_validation_items_of_a_recommender_through_a_split_that_knows_it():
    """Or take the counts out; those that train their own, and never a second stage, are named."""
    own = {"sharing.py", "warm_start.py"}
    read = re.compile(r"[\"'](valid)[\"']|\bvalid_(targets|histories)\b")
    found = {
        file.name: "split_of_model(" in text or "proposed(" in text or "without_validation_counts(" in text
        for file in (ROOT / "recipes").rglob("*.py")
        if "TigerRecommender.from_pretrained(" in (text := file.read_text()) and read.search(text)
    }
    assert {"beams.py", "ensemble.py", "two_stage.py", "refits.py", "timestamps.py"} <= found.keys()
    assert {name for name, guarded in found.items() if not guarded} == own


def test_a_changed_catalog_is_not_recounted():
    split = make_split()
    model = make_tiger(split)
    model.memory = model.memory.keep(np.arange(ITEMS - 1))
    with pytest.raises(DataError, match="items were added or removed"):
        with_validation_counts(model, split)
