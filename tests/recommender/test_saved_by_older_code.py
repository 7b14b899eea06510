"""Recommenders that older code saved load and give the same answers: see tests/fixtures/make_model.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from tiger.recommender.recommender import TigerRecommender

FOLDER = Path(__file__).parents[1] / "fixtures" / "model_f1fc351"
ANSWERS = json.loads((FOLDER / "answers.json").read_text())
NEW_ITEM = ("new-1", "Title: Folding camp lantern; Brand: Nowhere")


def check(found: tuple, expected: list) -> None:
    (items, scores), (expected_items, expected_scores) = found, expected
    assert items == expected_items
    expected_scores = np.array(expected_scores, dtype=float)
    expected_scores[np.isnan(expected_scores)] = -np.inf  # null in JSON
    np.testing.assert_allclose(np.stack(scores), expected_scores, atol=2e-4)


@pytest.mark.parametrize("name", ["two_stage", "codes", "click"])
def test_the_same_answers(name):
    tiger, expected, histories = TigerRecommender.from_pretrained(FOLDER / name), ANSWERS[name], ANSWERS["histories"]
    ranked = tiger.ranker is not None
    assert tiger.tokenizer.fingerprint == expected["fingerprint"]
    check(tiger.recommend(histories, k=6, num_beams=12, both_scores=ranked), expected["recommend"])
    if ranked:
        given = [tiger.tokenizer.item_ids[:5] for _ in histories]
        check(tiger.rank(histories, given), expected["rank"])
        check(tiger.recommend(histories, k=6, num_beams=12, rank=False), expected["recommend without rank"])
    tiger.add_items([NEW_ITEM[0]], texts=[NEW_ITEM[1]])
    semantic_id, *answer = expected["new item"]
    assert tiger.tokenizer.semantic_ids[-1].tolist() == semantic_id
    check(tiger.recommend(histories, k=4, num_beams=12, unseen_share=0.5), answer)


def test_the_fixture_is_small():
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert len(files) > 30 and sum(file.stat().st_size for file in files) < 300_000
