"""The report of a run, and what a log of repeat purchases changes."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tiger
from tests.conftest import write_tables
from tests.training.test_pipeline import SMALL
from tiger.cli.main import main
from tiger.data.dataset import RecommendationData
from tiger.data.repeats import excludes_history, repeat_share
from tiger.data.sequences import Sequences
from tiger.recommender.recommender import TigerRecommender
from tiger.training.evaluation import EvaluationArguments, measure, stages_of
from tiger.training.report import Section, tie_share, training_section
from tiger.training.report_page import html_of, markdown_of
from tiger.training.stories import spread, told

DAY = 86_400


def write_log(folder: Path, repeats: float, users: int = 300, seed: int = 0) -> Path:
    """Users with a few items that they buy again, with probability ``repeats``; else a new one, near the last."""
    random = np.random.default_rng(seed)
    num_items, rows = 150, []
    for user in range(users):
        history = [int(random.integers(num_items))]
        while len(history) < 10:
            again = random.random() < repeats
            near = [item for step in range(1, 30) if (item := (history[-1] + step) % num_items) not in history]
            history.append(int(random.choice(history)) if again else int(random.choice(near[:12])))
        rows += [(f"u{user}", f"i{item}", place * DAY) for place, item in enumerate(history)]
    titles = [f"item <b>{row // 5}</b> of kind {row // 10}" for row in range(num_items)]
    return write_tables(folder, {"item_id": [f"i{row}" for row in range(num_items)], "title": titles}, rows)


def test_shares():
    histories = Sequences.from_rows([np.array([1, 2, 1]), np.array([3]), np.array([], dtype=int), np.array([4, 4])])
    assert repeat_share(histories, np.array([1, 1, 1, 4])) == 0.5
    assert repeat_share(Sequences.from_rows([]), np.array([], dtype=int)) == 0
    assert tie_share(np.array([0, 0, 0, 1]), np.array([5, 5, 6, 5])) == 0.5
    assert spread(10, 3) == [2, 4, 6] and spread(2, 5) == [0] and spread(10, 0) == []


@pytest.mark.parametrize("repeats, kept", [(0.0, False), (0.77, True)])
def test_what_is_chosen_for_the_history_is_right(tmp_path, repeats, kept, capsys):
    dataset = write_log(tmp_path / "data", repeats)
    split = RecommendationData.load(dataset).leave_one_out()
    assert repeat_share(*split.part("valid")) == pytest.approx(repeats, abs=0.06)
    assert excludes_history(split) is not kept
    assert excludes_history(split, kept) is kept  # who asks, gets it
    retriever = SMALL["retriever"] | {"num_train_epochs": 8, "per_device_train_batch_size": 128, "learning_rate": 5e-3}
    retriever |= {"d_model": 32, "eval_users": 200}
    out = tmp_path / "run"
    tiger.train(str(dataset), out, **(SMALL | {"retriever": retriever}))
    said = capsys.readouterr().out
    assert f"items of the history are {'kept in' if kept else 'left out of'} the answers" in said
    found = json.loads((out / "test.json").read_text())
    recommender = TigerRecommender.from_pretrained(out)
    assert found["exclude_history"] is recommender.training["exclude_history"] is (not kept)
    assert recommender.ranker.record["exclude_history"] is (not kept)
    assert "errors" not in found  # all users were asked
    few = measure(str(out / "model"), str(dataset), EvaluationArguments(num_beams=10, bf16=False, users=40))
    assert few["users"] == 40 and set(few["errors"]) == set(few["models"])
    assert 0 < few["errors"]["tiger-with-validation"]["ndcg@10"] < 0.1
    # The other way, the same models find less.
    other = measure(
        str(out / "model"), str(dataset), EvaluationArguments(num_beams=10, bf16=False, exclude_history=kept)
    )
    stages = ("tiger-with-validation", "two-stage-with-validation")
    assert found["models"].keys() == other["models"].keys() >= {"popularity", "hybrid", *stages}
    for name in stages:
        # A memory hardly asks for what has been had: the T5 with one loses least by the wrong choice.
        margin = 0.0 if name == stages[0] else 0.01
        assert found["models"][name]["recall@10"] > other["models"][name]["recall@10"] + margin, name
    if kept:
        assert found["hybrid, history kept"]["recall@10"] > 3 * found["hybrid, history removed"]["recall@10"]
        assert found["repeats"] == pytest.approx(0.77, abs=0.06)
    else:
        assert found["repeats"] == 0 and "hybrid, history kept" not in found
    check_pages(out, found, kept)
    # `tiger evaluate` does as the training did.
    capsys.readouterr()
    main(["evaluate", str(out), str(dataset), "--num_beams", "10", "--no_bf16", "--json"])
    shown = capsys.readouterr()
    assert json.loads(shown.out)["recall@10"] == pytest.approx(found["recall@10"], abs=1e-5)
    assert ("stay in the answers, as in the model's training" in shown.err) is kept
    other_way = "--remove_history" if kept else "--keep_history"
    main(["evaluate", str(out), str(dataset), "--num_beams", "10", "--no_bf16", "--json", other_way])
    last = list(other["models"].values())[-1]
    assert json.loads(capsys.readouterr().out)["recall@10"] == pytest.approx(last["recall@10"], abs=1e-5)


def test_a_stage_that_learned_from_a_part_is_not_measured_on_it():
    asked = []

    def recommend_rows(histories, **search):
        asked.append(search)
        return np.full((2, search["k"]), 3), np.zeros((2, search["k"]))

    def order(histories, beams, scores, k, exclude_history):
        return beams[:, :k] + 4, None, scores[:, :k]

    ranker = SimpleNamespace(kind="two-stage", proposes_items=True, learned_from="valid", order=order)
    parts = {"recommend_rows": recommend_rows, "ranker": ranker, "memory": None, "training": {}}
    model = SimpleNamespace(device=torch.device("cpu"), **parts)
    args, histories = EvaluationArguments(num_beams=12, bf16=False), Sequences.from_rows([np.array([1])] * 2)
    (alone, beams, _), (name, ranked, _) = stages_of(model, histories, args, False)
    assert (alone, name) == ("tiger", "two-stage") and (beams == 3).all() and (ranked == 7).all()
    assert beams.shape == (2, 12) and ranked.shape == (2, 10)
    asked_for = {"k": 12, "num_beams": 12, "exclude_history": False, "progress": True, "rank": False, "bf16": False}
    assert asked == [asked_for]
    assert [stage[0] for stage in stages_of(model, histories, args, True, part="valid")] == ["tiger"]
    ranker.proposes_items, args.num_beams = False, 4
    found = list(stages_of(model, histories, args, True, alone="mine"))
    assert [stage[0] for stage in found] == ["mine", "mine-ranked"] and found[0][1].shape == (2, 10)


def test_a_second_stage_is_measured_without_times_as_well_where_that_is_wanted():
    def order(histories, beams, scores, k, exclude_history):
        return beams[:, :k] + (10 if histories.ends.all() else 20), None, scores[:, :k]

    def recommend_rows(histories, **search):
        return np.full((2, search["k"]), 3), np.zeros((2, search["k"]))

    ranker = SimpleNamespace(
        kind="two-stage", proposes_items=True, learned_from="valid", order=order, reads_times=True
    )
    parts = {"recommend_rows": recommend_rows, "ranker": ranker, "memory": None, "training": {}}
    model = SimpleNamespace(device=torch.device("cpu"), **parts)
    histories = Sequences(np.array([0, 1, 2]), np.array([1, 1]), np.array([86_400, 90_000]))
    args = EvaluationArguments(num_beams=12, bf16=False, no_timestamps=True)
    found = {name: int(ranked[0, 0]) for name, ranked, _ in stages_of(model, histories, args, False)}
    assert found == {"tiger": 3, "two-stage-no-timestamps": 23, "two-stage": 13}
    assert list(found)[-1] == "two-stage"  # the recommender's own figures are the last
    ranker.reads_times = False
    assert [name for name, _, _ in stages_of(model, histories, args, False)] == ["tiger", "two-stage"]


def check_pages(out: Path, found: dict, kept: bool) -> None:
    text, page = (out / "report.md").read_text(), (out / "report.html").read_text()
    for part in (
        "Data",
        "Decisions",
        "Semantic IDs",
        "Training of the T5",
        "Results",
        "Five users",
        "What to do next",
    ):
        assert f"## {part}" in text and f"<h2>{part}</h2>" in page
    assert "| users | 300 |" in text and "| items | 150 |" in text and "3,000 on 10 days" in text
    assert re.search(r"\| cold items \| \d+ without a training event \(\d+\.\d%\) \|", text)
    assert "0.0% of the events share their day" in text
    for name, metrics in found["models"].items():
        assert f"| {name} | {metrics['recall@5']:.4f} |" in text and f"<td>{name}</td>" in page
    assert f"items of the history are {'kept' if kept else 'left out'}." in text
    assert text.count(" --keep_history") == kept
    assert f"| items of the history | {'kept in' if kept else 'left out of'} the answers |" in text
    assert f"<code>retriever.exclude_history={str(kept).lower()}</code>" in page
    for one in found["comparisons"]:
        assert one["low"] <= one["difference"] <= one["high"]
        assert f"N@10 of {one['model']} is {abs(one['difference']):.4f} " in text
    for link in re.findall(r"\]\((.+?)\)", text):
        assert (out / link).read_bytes()[1:4] == b"PNG"
    # Needs no other file, and titles are no markup.
    assert page.count("data:image/png;base64,") == 2 and not re.search(r"src=\"(?!data:)|href=|<script", page)
    assert "item &lt;b&gt;" in page and "item <b>" not in page
    assert "    item <b>" in text  # a code block


def test_pages_of_little():
    sections = [Section("A|B", notes=("n < 1",)), Section("C", heads=("m", "x"), rows=(("p", "0.1"), ("q", "0.2")))]
    page = html_of("<t>", sections, Path())
    assert "<title>&lt;t&gt;</title>" in page and "n &lt; 1" in page and "<tr class=best><td>q" in page
    assert markdown_of("t", sections).endswith("## C\n\n| m | x |\n| --- | ---: |\n| p | 0.1 |\n| q | 0.2 |\n")


def test_a_story_is_told():
    answer = [{"title": "Lamp", "score": 1.5, "hit": True}, {"title": "Rope", "score": -2, "hit": False}]
    story = {"user": "u1", "events": 9, "history": ["Tent", "Stove"], "next": "Lamp", "recommended": answer}
    assert told(story) == (
        "user u1, the last of 9 items:\n    Tent\n    Stove\n  then came Lamp; recommended:\n"
        "  *   1.50  Lamp\n     -2.00  Rope"
    )


def test_what_was_chosen_for_the_memory_is_told():
    told = {"t5_weight": 0.15, "validation ndcg@10": {"0": 0.05, "0.15": 0.0612}}
    facts = dict(training_section({"epochs": 3.0, "memory": told}, []).facts)
    assert facts["weight of the T5 beside its memory"] == "0.15"
    assert facts["validation ndcg@10 by that weight"] == "0.0500 at 0, 0.0612 at 0.15"
    assert len(training_section({"epochs": 3.0}, []).facts) == 1
