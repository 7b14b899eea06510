"""The tables of results: ours, and beneath them, apart, what others print for their models."""

import json
import re

from recipes.tables import PAPER, ROOT, published_table, results_tables

UNKNOWN = {
    "model": "Far",
    "source": "arXiv 2",
    "metrics": {"toys": {"recall@10": 0.5}},
    "history removed": "not known",
    "doubts": ["Twice."],
}
KNOWN = {
    "model": "Near",
    "source": "arXiv 1",
    "metrics": {"toys": {"recall@10": 0.25, "ndcg@10": 0.125}, "beauty": {"recall@10": 0.75}},
    "history removed": "yes",
    "doubts": ["It reads texts.", "Nobody has it."],
}


def test_published_rows_stand_apart_and_say_what_is_doubtful(tmp_path):
    assert published_table(tmp_path, "toys") == ""
    (tmp_path / "published.json").write_text(json.dumps([UNKNOWN, KNOWN]))
    head, rule, *rows = published_table(tmp_path, "toys").splitlines()
    assert head == "| Toys, published by others, not measured here | source | history removed | doubts | R@10 / N@10 |"
    assert rows == [
        "| Near | arXiv 1 | yes | It reads texts. Nobody has it. | 0.2500 / 0.1250 |",
        "| Far | arXiv 2 | not known | Twice. | 0.5000 |",
    ]
    assert "Far" not in published_table(tmp_path, "beauty") and published_table(tmp_path, "sports") == ""
    # Beneath our own table of the data set, and in no other.
    (tmp_path / "toys").mkdir()
    row = {"model": "ours", "setting": "as published, history removed", "encoder": None}
    row["metrics"] = {name: 0.5 for name in ("recall@5", "ndcg@5", "recall@10", "ndcg@10")}
    (tmp_path / "toys" / "ours.json").write_text(json.dumps([row]))
    ours, others = results_tables(tmp_path).strip().split("\n\n")
    assert "| **ours** |" in ours and "Near" not in ours and others == published_table(tmp_path, "toys")


def test_published_figures_have_sources_and_doubts():
    rows = json.loads((ROOT / "recipes" / "results" / "published.json").read_text())
    assert len({row["model"] for row in rows}) == len(rows) > 5
    for row in rows:
        assert re.fullmatch(r"arXiv \d{4}\.\d{5}|cornac [\d.]+", row["source"]), row["model"]
        assert row["history removed"] in ("yes", "no", "not known")
        assert row["doubts"] and all(re.fullmatch(r"[A-Z].*[^.]\.", doubt) for doubt in row["doubts"]), row["model"]
        assert set(row["metrics"]) <= set(PAPER) and row["metrics"]
        for found in row["metrics"].values():
            assert 0 < found.get("ndcg@10", 0.001) < found["recall@10"] < 0.2
    names = " ".join(row["model"] for row in rows)
    assert all(name in names for name in ("OneRec", "GRLM", "GRAM", "BARGE", "RPG"))
