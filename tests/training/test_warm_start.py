"""Training that goes on from yesterday's model, and training on all events."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

import tiger
from tests.data.test_going_on import log_of
from tests.processes import kill_at_checkpoint, run_python
from tests.recipes.test_ranking_experiment import DAY, write_dataset
from tests.training.test_pipeline import SIZES, SMALL
from tiger.cli.main import main
from tiger.data.dataset import RecommendationData
from tiger.data.identity import data_digests, lacks_events_of, log_summary
from tiger.data.repeats import KEEP_FROM, repeat_share
from tiger.data.sequences import Sequences
from tiger.recommender.model_card import model_card
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.model import target_states
from tiger.training.learning import Learning, drawn_users, within_work
from tiger.training.parent import SEEN_FROM, load_parent, still_unseen
from tiger.training.plan import GOING_ON, Start, make_plan
from tiger.utils.errors import DataError

CUT = 80  # the day of "today's" first events
STEPS = ["tokenizer", "retriever"]
# The recipe's fifth of 600 steps is too long for a test, a fifth of this small log's only step too short.
GOING_SMALL = SMALL | {"retriever": SIZES | {"min_steps": 8}}


def before(source: Path, target: Path, day: int) -> Path:
    """A dataset with the events before a day and the items that these name; the items' order is turned round."""
    log = pq.read_table(source / "interactions.parquet")
    log = log.filter(pc.less(log["timestamp"], day * DAY))
    items = pq.read_table(source / "items.parquet")
    items = items.filter(pc.is_in(items["item_id"], value_set=log["item_id"].combine_chunks()))
    target.mkdir()
    pq.write_table(items.take(pa.array(np.arange(len(items))[::-1])), target / "items.parquet")
    pq.write_table(log, target / "interactions.parquet")
    return target


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """``today`` and ``yesterday``, datasets; ``parent``, a run on yesterday's; ``child``, one that goes on today."""
    work = tmp_path_factory.mktemp("warm")
    write_dataset(work / "today")
    before(work / "today", work / "yesterday", CUT)
    tiger.train(str(work / "yesterday"), work / "parent", **SMALL)
    tiger.train(str(work / "today"), work / "child", **GOING_SMALL, init_from=work / "parent" / "model")
    return work


@pytest.fixture(scope="module")
def parent(work):
    return TigerRecommender.from_pretrained(work / "parent")


@pytest.fixture(scope="module")
def child(work):
    return TigerRecommender.from_pretrained(work / "child")


def files(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_old_items_keep_their_ids_and_new_ones_get_theirs_as_add_items_gives_them(work, parent, child):
    count = len(parent.tokenizer)
    assert 100 < count < len(child.tokenizer) == 120
    assert child.tokenizer.item_ids[:count] == parent.tokenizer.item_ids
    assert child.tokenizer.fingerprint == parent.tokenizer.fingerprint
    assert np.array_equal(child.tokenizer.semantic_ids[:count], parent.tokenizer.semantic_ids)
    assert np.array_equal(child.tokenizer.token_table[:count], parent.tokenizer.token_table)
    items = pq.read_table(work / "today" / "items.parquet")
    new = items.filter(pc.invert(pc.is_in(items["item_id"], value_set=pa.array(parent.tokenizer.item_ids))))
    added = TigerRecommender.from_pretrained(work / "parent")
    added.add_items(new["item_id"].to_pylist(), table=new)
    assert added.tokenizer.item_ids == child.tokenizer.item_ids == child.items["item_id"].to_pylist()
    assert np.array_equal(added.tokenizer.semantic_ids, child.tokenizer.semantic_ids)
    assert child.items["title"].to_pylist() == added.items["title"].to_pylist()


def test_training_starts_from_the_parents_weights(work, parent, tmp_path):
    """A step at a rate of nothing leaves the scores of old items as they were."""
    still = {"learning_rate": 0.0, "embedding_learning_rate": 0.0, "max_steps": 1, "eval_strategy": "no"}
    still |= {"load_best_model_at_end": False, "save_strategy": "no", "weight_decay": 0.0, "patience": None}
    settings = SMALL | {"retriever": SIZES | still}
    same = tiger.train(str(work / "today"), tmp_path / "run", **settings, steps=STEPS, init_from=work / "parent")
    old = parent.model.shared.weight
    assert len(same.model.shared.weight) > len(old)  # prefixes of new items have tokens of their own
    assert torch.equal(same.model.shared.weight[: len(old)], old)
    own, theirs = same.model.state_dict(), parent.model.state_dict()
    assert all(torch.equal(own[name], weight) for name, weight in theirs.items() if own[name].shape == weight.shape)
    data = RecommendationData.load(work / "yesterday")
    one = [data.item_ids[row] for row in data.sequences[0]]
    target = parent.tokenizer.rows(one[-1:])
    tokens = torch.from_numpy(parent.tokenizer.encode(target))
    history = torch.from_numpy(parent.tokenizer.encode_history(parent.tokenizer.rows(one[:-1])))[None]
    visible = torch.tensor([[len(one) - 1]])
    with torch.no_grad():
        states = [target_states(model.model.eval(), history, visible, tokens[None]) for model in (parent, same)]
    assert torch.allclose(states[0], states[1], atol=1e-6)


def test_training_goes_on_for_less_and_changes_the_weights(work, parent, child):
    plan = make_plan("data", "run", start=Start("parent"))
    args, training = plan.arguments("retriever")
    recipe = make_plan("data", "run").settings["retriever"]
    assert training.num_train_epochs == 3 and training.learning_rate == 1e-3
    assert args.work_share == GOING_ON and args.min_steps == int(600 * GOING_ON)
    assert {plan.settings[step]["init_from"] for step in ("tokenizer", "retriever", "two_stage")} == {"parent"}
    # What the caller asks for comes last.
    asked = make_plan("data", "run", start=Start("parent"), overrides={"retriever": {"work_share": 1.0}})
    assert asked.settings["retriever"]["work_share"] == 1.0
    assert "init_from" not in recipe and "work_share" not in recipe
    assert not torch.equal(child.model.shared.weight[: len(parent.model.shared.weight)], parent.model.shared.weight)
    assert child.training["arguments"]["work_share"] == GOING_ON
    with pytest.raises(DataError, match="work_share is for training that goes on"):
        Learning.of(replace(args, work_share=0.5), 0, log_of(*[("u", item, 1) for item in "abcd"]), None)


def test_users_with_new_events_come_first_and_the_work_is_a_share():
    train = Sequences.from_rows([np.arange(3), np.arange(1), *[np.arange(4)] * 8])  # 26 targets
    first = np.zeros(10, dtype=bool)
    first[[0, 1, 7]] = True
    users = drawn_users(train, 1, 0)
    assert len(users) == 9 and 1 not in users  # who has nothing to learn from is never drawn
    chosen, epochs = within_work(train, users, first, 0.5)
    assert {0, 7} <= set(chosen) and epochs == 1
    assert 13 <= (train.lengths[chosen] - 1).sum() < 13 + 3  # half of the targets, to a user
    chosen, epochs = within_work(train, users, first, 0.1)
    assert list(chosen) == [0, 7] and epochs == pytest.approx(2.6 / 5)  # all who are first, for fewer epochs
    chosen, epochs = within_work(train, users, first, 1)
    assert list(chosen) == sorted(users) and epochs == 1
    few, more = (within_work(train, users, first, share)[0] for share in (0.4, 0.8))
    assert set(few) < set(more)
    with pytest.raises(DataError, match="work_share must be above 0"):
        within_work(train, users, first, 0)


def test_lineage_stands_in_the_record_the_manifest_the_card_the_report_and_info(work, child, capsys):
    digests = {
        name: data_digests(RecommendationData.load(work / name))["interactions"] for name in ("yesterday", "today")
    }
    known = json.loads((work / "child" / "model" / "tiger.json").read_text())["training"]
    record = json.loads((work / "child" / "training" / "run.json").read_text())
    fingerprint = load_parent(str(work / "parent")).fingerprint
    assert known["parent"] == record["settings"]["parent"]
    assert record["data"]["parent"] == known["parent"]["fingerprint"] == fingerprint
    assert known["parent"]["generation"] == 1 and known["parent"]["new_items"] == 120 - known["parent"]["fitted_items"]
    assert known["parent"]["data"]["interactions"] == digests["yesterday"]
    assert record["data"]["interactions"] == known["data"]["interactions"] == digests["today"]
    card = model_card(child.state, "me/shop")
    report, page = ((work / "child" / f"report.{kind}").read_text() for kind in ("md", "html"))
    capsys.readouterr()
    main(["info", str(work / "child")])
    said = capsys.readouterr().out
    for text, length in ((card, 64), (said, 64), (report, 16), (page, 16)):
        assert fingerprint[:length] in text
        assert all(digest[:length] in text for digest in digests.values())
    assert str(work) not in card  # a card names no folder of this machine
    assert "## Parent" in report and "\nDrift: " in report and "badly fitted" in report
    assert 0 <= json.loads((work / "child" / "tokenizer" / "report.json").read_text())["drift"]["badly_fitted"] <= 1


def test_drift_says_when_to_refit(work):
    from tiger.training.report import parent_section

    training = json.loads((work / "child" / "model" / "tiger.json").read_text())["training"]
    codes = json.loads((work / "child" / "tokenizer" / "report.json").read_text())
    codes["drift"]["refit"] = False
    assert parent_section(training, codes).notes == ("Drift: the quantizer still fits; go on from this model.",)
    codes["drift"] |= {"refit": True, "reasons": ["Half are worse."]}
    (note,) = parent_section(training, codes).notes
    assert note == "Drift: refit the quantizer, by training without --init_from. Half are worse."
    assert "no drift" in parent_section(training, {}).notes[0]


def test_unseen_is_cleared_by_events(work, parent, child):
    count = len(parent.tokenizer)
    assert not child.unseen[:count].any()
    train = RecommendationData.load(work / "today").in_order(child.tokenizer.item_ids).leave_one_out().train
    counts = np.bincount(train.items, minlength=120)
    assert child.unseen[count:][counts[count:] < SEEN_FROM].all()
    own = load_parent(str(work / "parent"))
    own.tiger.unseen = np.arange(count) < 2
    events = np.array([SEEN_FROM, SEEN_FROM - 1] + [0] * (count - 2) + [SEEN_FROM, 0])
    expected = np.zeros(count + 2, dtype=bool)
    expected[[1, count + 1]] = True
    assert np.array_equal(still_unseen(own, events), expected)


def test_the_second_stage_is_fitted_anew(work, parent, child):
    assert len(child.ranker) == 120 and child.ranker.fingerprint == parent.ranker.fingerprint
    assert child.ranker.digest() != parent.ranker.digest()
    assert json.loads((work / "child" / "test.json").read_text())["recall@10"] > 0.2


def refused(dataset: Path, work: Path, message: str, init_from: Path | None = None, **settings) -> None:
    out = work / "refused"
    shutil.rmtree(out, ignore_errors=True)
    with pytest.raises(DataError, match=message) as error:
        tiger.train(str(dataset), out, **(SMALL | settings), init_from=init_from or work / "parent", steps=STEPS)
    assert "\n" not in str(error.value) and not (out / "model").exists()


def test_wrong_parents_are_refused(work, tmp_path):
    today = work / "today"
    refused(today, work, "is no saved recommender", work / "nowhere")
    refused(today, work, "is no saved recommender", work / "today")
    refused(today, work, "encoder 'some/other', not 'lsa'", tokenizer=SMALL["tokenizer"] | {"encoder": "some/other"})
    refused(today, work, "codebook_size 16, not 8", tokenizer=SMALL["tokenizer"] | {"codebook_size": 16})
    refused(today, work, "d_model 32, not 16", retriever=SIZES | {"d_model": 32})
    refused(today, work, "tokens 'codes', not 'prefixes'", retriever=SIZES | {"tokens": "codes"})
    # What the parent's codes and weights can't follow any more is named, not passed over.
    for name, value in (("embedding_dim", 4), ("seed", 1), ("cooccurrence_weight", 0.5), ("num_codebooks", 3)):
        refused(today, work, f"{name} {value}, not", tokenizer=SMALL["tokenizer"] | {name: value})
    refused(
        today, work, "start_from 'log:1', not 'log:3, words:3, texts:2'", retriever=SIZES | {"start_from": "log:1"}
    )
    refused(today, work, "start_share 0.5, not 1.0", retriever=SIZES | {"start_share": 0.5})
    refused(today, work, "shuffle_ties", retriever=SIZES | {"shuffle_ties": 1}, tokenizer=SMALL["tokenizer"])
    # Other items: one is gone.
    shutil.copytree(today, tmp_path / "gone")
    gone = pq.read_table(today / "interactions.parquet")["item_id"][0].as_py()
    for name in ("items", "interactions"):
        table = pq.read_table(today / f"{name}.parquet")
        pq.write_table(table.filter(pc.not_equal(table["item_id"], gone)), tmp_path / "gone" / f"{name}.parquet")
    refused(tmp_path / "gone", work, f"lacks 1 of the .* such as '{gone}': keep their rows")
    # Another log: an event of the parent's is missing, or another one.
    for change, message in (
        (slice(5, None), "holds .* events, the parent's log"),
        (None, "are not those of the parent"),
    ):
        folder = tmp_path / str(message[:5])
        shutil.copytree(today, folder)
        log = pq.read_table(today / "interactions.parquet")
        if change is None:
            ids = log["item_id"].to_pylist()
            log = log.set_column(1, "item_id", pa.array([next(item for item in ids if item != ids[0]), *ids[1:]]))
        else:
            log = log.filter(pa.array(np.arange(len(log)) != int(np.argmin(log["timestamp"]))))
        pq.write_table(log, folder / "interactions.parquet")
        refused(folder, work, message)
    # Other semantic IDs of the same items.
    plan = make_plan(today, tmp_path / "own", overrides=SMALL)
    tiger.training.pipeline.run_step(plan, "tokenizer")
    with pytest.raises(DataError, match="other semantic IDs"):
        settings = SIZES | {"init_from": str(work / "parent")}
        tiger.train(str(today), tmp_path / "own", **(SMALL | {"retriever": settings}), steps=["retriever"])


def test_logs_that_go_on(work):
    yesterday, today = (RecommendationData.load(work / name) for name in ("yesterday", "today"))
    summary = log_summary(yesterday)
    assert summary["events"] == len(yesterday.sequences.items) and summary["last_day"] == CUT - 1
    assert lacks_events_of(today, summary) == lacks_events_of(yesterday, summary) == ""
    assert "holds" in lacks_events_of(yesterday, log_summary(today))


def test_a_parent_with_shuffled_ties_goes_on_with_split_all_alone(work):
    from tiger.training.parent import check_settings_go_on

    own = load_parent(str(work / "parent"))
    own.tiger.training["shuffle_ties"] = 1
    for split, match in (("leave_one_out", "shuffle_ties and --init_from"), ("all", None)):
        overrides = {"retriever": SIZES}
        args, _ = make_plan("data", "run", start=Start("parent", split), overrides=overrides).arguments("retriever")
        if match is None:
            check_settings_go_on(own, args)
            continue
        with pytest.raises(DataError, match=match):
            check_settings_go_on(own, args)


def test_the_order_of_todays_item_table_does_not_matter(work, child, tmp_path):
    shutil.copytree(work / "today", tmp_path / "turned")
    items = pq.read_table(work / "today" / "items.parquet")
    new = ~np.isin(items["item_id"].to_pylist(), child.tokenizer.item_ids[: child.training["parent"]["fitted_items"]])
    order = np.arange(len(items))
    order[~new] = order[~new][::-1]  # new items are numbered in the table's order, those of the parent are not
    pq.write_table(items.take(pa.array(order)), tmp_path / "turned" / "items.parquet")
    more = {"init_from": work / "parent", "steps": STEPS}
    turned = tiger.train(str(tmp_path / "turned"), tmp_path / "run", **GOING_SMALL, **more)
    assert turned.tokenizer.item_ids == child.tokenizer.item_ids
    assert np.array_equal(turned.tokenizer.token_table, child.tokenizer.token_table)
    assert torch.equal(turned.model.shared.weight, child.model.shared.weight)


def test_a_killed_run_goes_on_and_another_parent_is_refused(work, tmp_path):
    shutil.copytree(work / "parent" / "model", tmp_path / "parent")
    out, model = tmp_path / "run", tmp_path / "parent"
    more = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 5, "save_steps": 5, "max_steps": 40}
    settings = {"tokenizer": SMALL["tokenizer"], "retriever": SIZES | more, "two_stage": SMALL["two_stage"]}
    settings["evaluate"] = SMALL["evaluate"]
    words = [f"{step}.{key}={value}" for step, values in settings.items() for key, value in values.items()]
    command = ["-m", "tiger.cli", "train", str(work / "today"), "--init_from", str(model), "--out", str(out), "--json"]
    command += ["--set", *words]
    kill_at_checkpoint(command, out / "training", tmp_path)
    assert not (out / "model").exists()
    kept = files(out / "tokenizer")
    # Another parent in the same place.
    manifest = (model / "tiger.json").read_text()
    (model / "tiger.json").write_text(manifest + "\n")
    refusing = run_python(*command, cwd=tmp_path)
    assert refusing.returncode == 2 and "the model that init_from names is not what" in refusing.stderr
    (model / "tiger.json").write_text(manifest)
    done = run_python(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert files(out / "tokenizer") == kept and TigerRecommender.from_pretrained(out).training["steps"] == 40
    (last,) = out.glob("training/checkpoint-40")
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    assert [row["step"] for row in history if "eval_loss" in row] == list(range(5, 41, 5))
    before_again = files(out / "model")
    again = run_python(*command, cwd=tmp_path)
    assert again.returncode == 0 and files(out / "model") == before_again


def test_all_events_are_trained_on(work, tmp_path, capsys):
    today, out = work / "today", tmp_path / "all"
    with pytest.raises(DataError, match="--split all has no second stage of its own"):
        tiger.train(str(today), out, **SMALL, split="all")
    other = SMALL | {"two_stage": SMALL["two_stage"] | {"max_trees": 6}}
    with pytest.raises(DataError, match="two_stage.max_trees 6, not 5"):  # its trees are kept
        tiger.train(str(today), out, **other, split="all", init_from=work / "child")
    assert not out.exists()
    words = [f"{step}.{key}={value}" for step, values in SMALL.items() for key, value in values.items()]
    words = [word for word in words if not word.startswith("evaluate")]
    main(
        ["train", str(today), "--out", str(out), "--split", "all", "--init_from", str(work / "child"), "--set", *words]
    )
    said = capsys.readouterr().err
    assert "step 3 of 3: training the second stage" in said and "stay, over counts of all events" in said
    found = TigerRecommender.from_pretrained(out)
    assert found.training["split"] == "all" and found.training["parent"]["generation"] == 2
    assert not (out / "test.json").exists() and "All events were trained on" in (out / "report.md").read_text()
    data = RecommendationData.load(today)
    assert len(found.ranker.candidates.events) == len(data.sequences.items) == found.training["log"]["events"]
    child = TigerRecommender.from_pretrained(work / "child")
    ours, theirs = ([trees.model_to_string() for trees in one.ranker.trees] for one in (found, child))
    assert ours == theirs and found.ranker.digest() != child.ranker.digest()  # the same trees over other counts
    assert "no part of this log can measure the model" in model_card(found.state, "me/shop")
    main(["info", str(out)])
    assert "split all" in capsys.readouterr().out
    # Such a model can't be measured, unless one insists, and then the result says so.
    measure = ["evaluate", str(out), str(today), "--num_beams", "10", "--no_bf16"]
    with pytest.raises(SystemExit) as stop:
        main(measure)
    captured = capsys.readouterr()
    assert stop.value.code == 2 and "was trained on all events" in captured.err and captured.err.count("\n") == 1
    main([*measure, "--allow-other-log", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["split"] == "all" and answer["other_log"] is True
    main([*measure, "--allow-other-log"])
    assert "held none back (split all)" in capsys.readouterr().out
    # What has seen all can't be the parent of what holds something back.
    refused(today, work, "was trained on all events of its log", out)


def test_split_all_trains_on_every_event_without_a_parent(work, tmp_path):
    data = RecommendationData.load(work / "today")
    split = data.split("all")
    assert len(split.train.items) == len(data.sequences.items) and len(split.users) == 300
    with pytest.raises(DataError, match="nothing of this log is held out"):
        split.part("test")
    histories, targets = split.next_items
    assert targets[0] == data.sequences[0][-1] and list(histories[0]) == list(data.sequences[0][:-1])
    run = tiger.train(str(work / "today"), tmp_path / "run", **SMALL, split="all", steps=STEPS)
    assert run.tokenizer.learned_split == {"shuffle_ties": None, "all": 1}
    with pytest.raises(DataError, match="learned from all events"):
        run.tokenizer.check_split(None)
    assert run.training["best_step"] is None and run.training["split"] == "all"
    with pytest.raises(DataError, match="nothing to validate on: leave out eval_strategy"):
        wrong = SIZES | {"eval_strategy": "epoch"}
        tiger.train(str(work / "today"), tmp_path / "no", **(SMALL | {"retriever": wrong}), split="all", steps=STEPS)
    with pytest.raises(DataError, match="nothing to measure on"):
        tiger.train(str(work / "today"), tmp_path / "no", **SMALL, split="all", steps=[*STEPS, "evaluate"])
    with pytest.raises(DataError, match="split must be"):
        data.split("most")


def test_what_a_parent_leaves_out_of_answers_its_children_leave_out(work, parent):
    data = RecommendationData.load(work / "today")
    split = data.leave_one_out()
    told = Learning(data, split, split.train, None).excludes_history(None)
    for decided in (True, False):
        asked = SimpleNamespace(tiger=SimpleNamespace(training=parent.training | {"exclude_history": decided}))
        learning = Learning(data, split, split.train, asked)
        assert learning.excludes_history(None) == decided
        assert learning.excludes_history(not decided) == (not decided)
    assert told == (repeat_share(*split.next_items) < KEEP_FROM)
