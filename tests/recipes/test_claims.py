"""The table of the papers' claims has the figures and the verdicts of the files, and follows them."""

import importlib
import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "recipes" / "results"


@pytest.fixture
def claims(monkeypatch):
    """The claims' rows and their verdicts."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    return importlib.import_module("verdicts")


@pytest.fixture
def results(tmp_path, claims):
    """A copy of the results, to be changed."""
    shutil.copytree(RESULTS, tmp_path / "results", ignore=shutil.ignore_patterns("*.png", "speed"))
    return claims.Results(tmp_path / "results")


def rows(claims, results) -> dict:
    return {claim.text: claim for claim in claims.claims(results)}


def change(results, name: str, edit) -> None:
    """Rewrite a file of results."""
    content = json.loads((results.folder / name).read_text())
    edit(content)
    (results.folder / name).write_text(json.dumps(content))


def test_the_page_is_what_the_files_say(claims):
    text = (ROOT / "docs" / "claims.md").read_text()
    assert importlib.import_module("claims").page(text, claims.Results(RESULTS)) == text, (
        "run python recipes/claims.py"
    )


def test_every_claim_names_its_files_or_is_open(claims):
    for claim in claims.claims(claims.Results(RESULTS)):
        assert bool(claim.files) == bool(claim.ours) and all((RESULTS / file).is_file() for file in claim.files)
        assert claim.ours or claim.verdict == claims.OPEN


def test_figures_of_known_claims(claims):
    found = rows(claims, claims.Results(RESULTS))
    recipe = found["TIGER: NDCG@10 of the recipe on Beauty, Sports, Toys"]
    assert recipe.paper == ".0384, .0225, .0432" and recipe.ours == ".0374, .0211, .0356"
    assert recipe.verdict == "does not hold: below on 3 of 3 sets"
    ids = found["RQ-VAE IDs beat random ones (Beauty)"]
    assert ids.ours == "beauty-90-dropout05-random .0355, beauty-90-dropout05 .0472 after 86 epochs (validation)"
    assert ids.verdict == claims.HOLDS and ids.files == ("paper/long.json",)


def test_verdicts_follow_the_files(claims, results):
    text = "RQ-VAE IDs beat random ones (Beauty)"
    change(
        results,
        "paper/long.json",
        lambda found: [point.update({"eval_ndcg@10": 0.01}) for point in found["runs"]["beauty-90-dropout05"]],
    )
    assert rows(claims, results)[text].verdict == claims.FAILS
    unseen = next(text for text in rows(claims, results) if text.startswith("Unseen items"))
    before = rows(claims, claims.Results(RESULTS))[unseen].verdict

    def lose(found):
        for row in found["rows"]:
            if row["model"] == "tiger":
                row.update({key: 0.0 for key in row if key.startswith("recall@")})

    change(results, "cold_start/beauty.json", lose)
    after = claims.Results(results.folder)
    assert before == claims.HOLDS and rows(claims, after)[unseen].verdict == claims.FAILS


def test_runs_to_come_fill_their_rows(claims, results):
    text = "RQ-VAE IDs beat LSH ones (Beauty)"
    assert rows(claims, claims.Results(RESULTS))[text].verdict in (claims.OPEN, claims.HOLDS, claims.FAILS)
    points = {"base": [0.03, 0.043], "ids-lsh": [0.031], "layers-2": [0.02, 0.044], "layers-6": [0.029, 0.042]}
    runs = {
        name: [{"epoch": epoch, "eval_ndcg@10": value} for epoch, value in enumerate(values, start=1)]
        for name, values in points.items()
    }
    (results.folder / "paper" / "a.json").write_text(json.dumps({"runs": runs}))
    found = rows(claims, results)
    assert found[text].ours == "ids-lsh .0310, base .0300 after 1 epochs (validation)"  # as long as both were trained
    assert found[text].verdict == claims.FAILS
    layers = next(claim for name, claim in found.items() if name.startswith("Layers"))
    ours = "layers-2 .0440, base .0430 after 2 epochs; layers-6 .0420, base .0430 after 2 epochs (validation)"
    assert layers.ours == ours and layers.verdict == claims.PARTLY
    assert "[paper/a](../recipes/results/paper/a.json)" in importlib.import_module("claims").table(results)
