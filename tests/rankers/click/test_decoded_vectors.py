"""Content vectors decoded from codes: what is read, that nothing of them is stored, and changes of the catalog."""

import copy

import numpy as np
import pytest
from transformers import set_seed

from tests.conftest import make_model
from tiger.rankers.click import ranker as click_ranker
from tiger.rankers.click.dataset import rows_and_dense
from tiger.rankers.click.features import ItemFeatures
from tiger.rankers.click.model import SemanticIdRanker, ranker_config
from tiger.rankers.click.ranker import ClickRanker
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.fitting import Cooccurrence
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError

WIDTH = 12
VECTORS = np.random.default_rng(0).normal(size=(50, WIDTH)).astype(np.float32)
IDS = [f"i{row}" for row in range(50)]
HISTORIES = [np.array([1, 2]), np.array([], dtype=int), np.array([9, 4, 49])]
CANDIDATES = np.tile(np.arange(50), (3, 1))
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # where weights lie in memory decides the last bit


def make_tokenizer(quantizer="residual-kmeans", **options):
    if quantizer == "rqvae":
        options |= {"hidden_sizes": (16,), "latent_dim": 4, "steps": 20}
    return SemanticIdTokenizer.fit(VECTORS, IDS, 2, 4, quantizer=quantizer, progress=False, **options)


def make_ranker(tokenizer, kind="unigram+dense_from_codes", **options):
    set_seed(0)
    features = ItemFeatures.fit(kind, 60, tokenizer.codes, tokenizer.codebook_size)
    config = ranker_config(features, dense_dim=WIDTH, semantic_ids=tokenizer.fingerprint, d_model=8)
    return ClickRanker(SemanticIdRanker(config), features, tokenizer, **options)


@pytest.mark.parametrize("quantizer", ["residual-kmeans", "rqvae"])
def test_the_vectors_are_those_of_the_quantizer(quantizer):
    tokenizer = make_tokenizer(quantizer)
    features = ItemFeatures.fit("unigram+dense_from_codes", 60, tokenizer.codes, 4)
    rows, dense = rows_and_dense(features, IDS, tokenizer.codes, None, tokenizer.quantizer)
    np.testing.assert_array_equal(dense, tokenizer.quantizer.decode(tokenizer.codes))
    if quantizer == "residual-kmeans":
        books, mean = tokenizer.quantizer.codebooks.detach().numpy(), tokenizer.quantizer.mean.numpy()
        summed = mean + books[0, tokenizer.codes[:, 0]] + books[1, tokenizer.codes[:, 1]]
        np.testing.assert_allclose(dense, summed, **CLOSE)
    ranker = make_ranker(tokenizer)
    plain = make_ranker(tokenizer, "unigram+dense", dense=dense)
    plain.ranker.load_state_dict(ranker.ranker.state_dict())
    found = ranker.score(HISTORIES, CANDIDATES)
    np.testing.assert_allclose(found, plain.score(HISTORIES, CANDIDATES), **CLOSE)
    stored = make_ranker(tokenizer, "unigram+dense", dense=VECTORS)
    stored.ranker.load_state_dict(ranker.ranker.state_dict())
    assert np.abs(stored.score(HISTORIES, CANDIDATES) - found).max() > 1e-3


def test_codes_of_text_and_log_decode_to_the_texts_part():
    log = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    tokenizer = make_tokenizer(cooccurrence=Cooccurrence(log, {"shuffle_ties": None}))
    features = ItemFeatures("dense_from_codes", 1, 2, 4)
    rows, dense = rows_and_dense(features, IDS, tokenizer.codes, None, tokenizer.quantizer)
    assert rows.shape == (50, 0) and dense.shape == (50, WIDTH)
    assert np.isfinite(make_ranker(tokenizer, "dense_from_codes").score(HISTORIES, CANDIDATES)).all()


def test_they_are_decoded_in_parts(monkeypatch):
    tokenizer = make_tokenizer()
    whole = make_ranker(tokenizer).score(HISTORIES, CANDIDATES)
    monkeypatch.setattr(click_ranker, "_ITEMS", 7)
    decoded, decode = [], tokenizer.quantizer.decode
    monkeypatch.setattr(tokenizer.quantizer, "decode", lambda codes: decoded.append(len(codes)) or decode(codes))
    np.testing.assert_allclose(make_ranker(tokenizer).score(HISTORIES, CANDIDATES), whole, **CLOSE)
    assert decoded == [7] * 7 + [1]


def test_nothing_of_them_is_saved(tmp_path):
    tokenizer = make_tokenizer()
    ranker = make_ranker(tokenizer)
    ranker.save_pretrained(tmp_path / "decoded")
    make_ranker(tokenizer, "unigram+dense", dense=VECTORS).save_pretrained(tmp_path / "stored")
    names = {name: {file.name for file in (tmp_path / name).iterdir()} for name in ("decoded", "stored")}
    assert names["stored"] - names["decoded"] == {"dense.safetensors"} and names["decoded"] < names["stored"]
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in names}
    assert abs(sizes["decoded"] - sizes["stored"]) < 64  # the weights grow by nothing
    again = ClickRanker.from_pretrained(tmp_path / "decoded", tokenizer)
    np.testing.assert_allclose(again.score(HISTORIES, CANDIDATES), ranker.score(HISTORIES, CANDIDATES), **CLOSE)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    elsewhere = ClickRanker.from_pretrained(
        tmp_path / "decoded", SemanticIdTokenizer.from_pretrained(tmp_path / "tokenizer")
    )
    np.testing.assert_allclose(elsewhere.score(HISTORIES, CANDIDATES), ranker.score(HISTORIES, CANDIDATES), **CLOSE)
    assert again.digest() == elsewhere.digest() == ranker.digest()
    other = SemanticIdTokenizer.from_pretrained(tmp_path / "tokenizer")
    other.quantizer.codebooks[0].data.add_(1.0)  # the codes are the same, what they decode to is not
    assert ClickRanker.from_pretrained(tmp_path / "decoded", other).digest() != ranker.digest()


def test_items_are_added_updated_and_kept():
    tokenizer = make_tokenizer()
    ranker = make_ranker(tokenizer)
    before = copy.copy(ranker)
    unchanged = ranker.score(HISTORIES, CANDIDATES)
    tokenizer.add_items(["new"], codes=tokenizer.codes[[5]])
    ranker.add_items(tokenizer, None, None)  # no vector is needed: codes suffice
    scores = ranker.score(HISTORIES, np.tile([50, 5], (3, 1)))
    np.testing.assert_allclose(scores[:, 0], scores[:, 1], **CLOSE)
    other = int(np.flatnonzero((tokenizer.codes[:50] != tokenizer.codes[5]).any(axis=1))[0])
    tokenizer.update_items(["new"], codes=tokenizer.codes[[other]])
    ranker.update_items(np.array([50]), tokenizer, None, None)
    scores = ranker.score(HISTORIES, np.tile([50, other, 5], (3, 1)))
    np.testing.assert_allclose(scores[:, 0], scores[:, 1], **CLOSE)
    assert np.abs(scores[:, 0] - scores[:, 2]).max() > 1e-4
    kept = np.setdiff1d(np.arange(51), [0, 3])
    ranker.keep_items(kept)
    fewer = ranker.score([np.searchsorted(kept, history) for history in HISTORIES], np.tile(np.arange(49), (3, 1)))
    np.testing.assert_allclose(fewer[:, :-1], unchanged[:, kept[:-1]], **CLOSE)
    np.testing.assert_array_equal(before.score(HISTORIES, CANDIDATES), unchanged)  # the copy stays as it was


def test_a_recommender_adds_items_and_saves_with_it(tmp_path):
    tokenizer = make_tokenizer()
    tiger = TigerRecommender(make_model(tokenizer), tokenizer, max_history=5, ranker=make_ranker(tokenizer))
    tiger.add_items(["new"], embeddings=VECTORS[[5]])
    tiger.save_pretrained(tmp_path / "model")
    again = TigerRecommender.from_pretrained(tmp_path / "model")
    for one in (tiger, again):
        ranked, scores = one.rank([["i1"]], [["new", "i5", "i7"]])
        found = dict(zip(ranked[0], scores[0]))
        assert found["new"] == pytest.approx(found["i5"], abs=1e-5) and len(set(ranked[0])) == 3
    assert not list((tmp_path / "model").rglob("dense.safetensors"))


def test_what_is_refused():
    tokenizer = make_tokenizer()
    bare = SemanticIdTokenizer(tokenizer.codes, IDS, 4)
    with pytest.raises(DataError, match="by the tokenizer's quantizer, and it has none: fit a tokenizer"):
        make_ranker(bare)
    features = ItemFeatures.fit("random_hash+dense_from_codes", 60, tokenizer.codes, 4)
    with pytest.raises(DataError, match="by the tokenizer's quantizer, and it has none"):
        rows_and_dense(features, IDS, tokenizer.codes, VECTORS)
    with pytest.raises(DataError, match="needs codes"):
        rows_and_dense(features, IDS, None, VECTORS, tokenizer.quantizer)
    codes = tokenizer.codes.copy()
    codes[3] = -1
    with pytest.raises(DataError, match="'i3' has no codes"):
        features.rows(IDS, codes)
    with pytest.raises(DataError, match="one content vector, stored or decoded"):
        ItemFeatures("dense+dense_from_codes", 60, 2, 4)
    with pytest.raises(ValueError, match="say how long they are"):
        ranker_config(features)
    wide = SemanticIdTokenizer.fit(np.tile(VECTORS, 2), IDS, 2, 4, quantizer="residual-kmeans", progress=False)
    wide.fingerprint = tokenizer.fingerprint
    with pytest.raises(DataError, match="reads vectors of 12 numbers, the tokenizer's quantizer decodes codes to 24"):
        make_ranker(wide)
