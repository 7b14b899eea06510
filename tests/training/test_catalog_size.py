"""Sizes of codes by the number of items: small catalogs keep theirs, large ones get room."""

import numpy as np
import pytest

from tiger.training import tokenizer as module
from tiger.training.catalog_size import MOST_PREFIXES, MOST_SUMMED, CatalogSize, softmax_by_size
from tiger.training.plan import check_settings, make_plan
from tiger.training.tokenizer import TokenizerArguments, fitted_tokenizer, sized


@pytest.mark.parametrize(
    ("num_items", "levels", "size", "tokens"),
    [
        (3, 2, 1, "prefixes"),
        (500, 2, 64, "prefixes"),
        (12_101, 2, 256, "prefixes"),  # Beauty
        (18_357, 2, 256, "prefixes"),  # Sports
        (21_846, 3, 256, "prefixes"),
        (100_000, 3, 256, "prefixes"),
        (MOST_PREFIXES + 1, 3, 256, "codes"),
        (1_000_000, 3, 256, "codes"),
        (10_000_000, 4, 256, "codes"),
    ],
)
def test_sizes_by_the_number_of_items(num_items, levels, size, tokens):
    assert CatalogSize.of(num_items) == CatalogSize(levels, size, tokens)
    if num_items > 21_845:
        assert size**levels >= 16 * num_items > size ** (levels - 1)


@pytest.mark.parametrize(
    ("wanted", "tokens", "num_items", "found"),
    [
        ("auto", "prefixes", MOST_SUMMED, "items"),
        ("auto", "prefixes", MOST_SUMMED + 1, "children"),
        ("auto", "codes", 100, None),
        ("auto", "hashed_prefixes", 100, None),
        ("children", "prefixes", 100, "children"),
        (None, "prefixes", 100, None),
    ],
)
def test_softmax_by_tokens_and_the_number_of_items(wanted, tokens, num_items, found):
    assert softmax_by_size(wanted, tokens, num_items) == found


def test_given_sizes_stay_and_open_ones_are_filled_in():
    def settings(**given):
        args = sized(TokenizerArguments("d", "o", **given), 1_000_000)
        return args.num_codebooks, args.codebook_size

    assert settings() == (3, 256)
    assert settings(num_codebooks=0) == (3, 256)
    assert settings(num_codebooks=0, codebook_size=2048) == (3, 2048)
    assert settings(num_codebooks=0, codebook_size=32) == (5, 32)
    assert settings(num_codebooks=5, codebook_size=16) == (5, 16)


def test_the_default_recipe_leaves_them_open():
    plan = make_plan("data", "run")
    found = check_settings(plan, plan.steps)
    assert found["tokenizer"][0].num_codebooks == 0 and found["tokenizer"][0].codebook_size is None
    assert found["retriever"][0].tokens == "auto"


def test_levels_are_added_while_they_tell_items_apart(monkeypatch, capsys):
    random = np.random.default_rng(0)
    vectors, ids = random.standard_normal((300, 6), dtype=np.float32), [f"i{row}" for row in range(300)]

    def levels(vectors, **given):
        args = TokenizerArguments("d", "o", quantizer="residual-kmeans", codebook_size=4, **given)
        return fitted_tokenizer(args, vectors, ids, None).num_codebooks

    assert levels(vectors, num_codebooks=0) == 2  # a small catalog keeps what it had
    monkeypatch.setattr(module, "TWO_LEVELS", 100)
    assert levels(vectors, num_codebooks=0) == 4 and "have all 2 codes of another one" in capsys.readouterr().out
    assert levels(vectors, num_codebooks=3) == 3
    monkeypatch.setattr(module, "MOST_SHARED", 0.95)
    assert levels(vectors, num_codebooks=0) == 2
    monkeypatch.setattr(module, "MOST_SHARED", 0.05)
    assert levels(vectors[:8].repeat(38, axis=0)[:300], num_codebooks=0) == 2  # eight texts
