"""Options in both spellings, the nearest name for one that there is not, and what single verbs say."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from tiger.cli import recommend
from tiger.cli.main import main
from tiger.training.report_page import curve_picture


def stopped(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("option", ["--num-beams", "--num_beams", "--num-b"])
def test_both_spellings(capsys, tmp_path, option):
    printed = stopped(capsys, "recommend", str(tmp_path / "none"), "--history", "a", option, "0")
    assert "num_beams must be" in printed


def test_the_nearest_name_is_told(capsys):
    assert "(did you mean recommend?)" in stopped(capsys, "recomend", "demo")
    assert "(did you mean --num_beams?)" in stopped(capsys, "recommend", "demo", "--num-beems", "5")
    assert "did you mean" not in stopped(capsys, "recommend", "demo", "--xyzzy")


@pytest.mark.parametrize("words", [[], ["--no-rank"], ["--no_rank"]])
def test_the_ranker_can_be_left_out(monkeypatch, capsys, words):
    asked = []

    class Recommender:
        def recommend(self, histories, **options):
            asked.append(options.get("rank", True))
            return [[]], np.zeros((1, 0))

        def titles(self, items):
            return items

    monkeypatch.setattr(recommend, "load_recommender", lambda *names: Recommender())
    main(["recommend", "x", "--history", "a", "--json", *words])
    assert asked == [not words] and capsys.readouterr().out == "[]\n"


def test_info_of_a_training_that_was_interrupted(capsys, tmp_path):
    run = tmp_path / "run"
    (run / "tokenizer").mkdir(parents=True)
    (run / "tokenizer.json").write_text("{}")
    printed = stopped(capsys, "info", str(run))
    assert f"{run} holds a training that is not finished: give the same tiger train command again" in printed


def test_the_curve_has_whole_markers_and_epochs(monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    curve_picture([{"epoch": n, "loss": 3 / n, "eval_loss": 4 / n, "eval_ndcg@10": n / 10} for n in (1, 2, 3, 4)])
    for axes in drawn[0].axes:
        assert axes.lines and not any(line.get_clip_on() for line in axes.lines)
        assert all(tick == round(tick) for tick in axes.get_xticks())
