import json
from functools import partial

import numpy as np
import pytest
from transformers import set_seed

from tests.conftest import make_model
from tests.recommender.test_recommender import fitted  # noqa: F401
from tests.retriever.test_memory import make_memory
from tiger.cli.main import main
from tiger.data.sequences import Sequences
from tiger.rankers.click.features import ItemFeatures
from tiger.rankers.click.model import SemanticIdRanker, ranker_config
from tiger.rankers.click.ranker import ClickRanker
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError


@pytest.fixture
def recommender(fitted, tmp_path):  # noqa: F811
    tokenizer, encoder, items = fitted
    tokenizer.save_pretrained(tmp_path / "copy")
    own = SemanticIdTokenizer.from_pretrained(tmp_path / "copy")
    dense = encoder.encode(items["title"].to_pylist())
    return TigerRecommender(
        make_model(own), own, encoder, items, max_history=5, ranker=make_ranker(own, dense, "unigram+dense")
    )


def make_ranker(tokenizer, dense, kind):
    set_seed(0)
    features = ItemFeatures.fit(kind, 50, tokenizer.codes, tokenizer.codebook_size)
    config = ranker_config(features, dense_dim=dense.shape[1], semantic_ids=tokenizer.fingerprint, d_model=8)
    return ClickRanker(SemanticIdRanker(config), features, tokenizer, dense)


def test_the_ranker_orders_what_the_beams_propose(recommender):
    history = [["i1", "i2"], [], ["i7"]]
    proposed, beams = recommender.recommend(history, k=20, num_beams=20, rank=False)
    items, logits = recommender.recommend(history, k=20, num_beams=20)
    assert [set(answer) for answer in items] == [set(answer) for answer in proposed]
    assert items != proposed and (np.diff(logits, axis=1) <= 0).all()
    best, both = recommender.recommend(history, k=3, num_beams=20, both_scores=True)
    assert best == [answer[:3] for answer in items]
    for answer, scores, names, values in zip(best, both, proposed, beams):
        expected = [values[names.index(item)] for item in answer]
        np.testing.assert_allclose(scores[:, 0], expected, atol=1e-5)
    ranked, given = recommender.rank(history, [answer[::-1] for answer in proposed])
    assert ranked == items
    np.testing.assert_allclose(np.stack(given), logits, atol=1e-5)


def test_the_t5_has_its_say(recommender):
    ranker, random = recommender.ranker, np.random.default_rng(0)
    histories = Sequences(np.arange(101), random.integers(0, 20, 100).astype(np.int32), np.zeros(100, dtype=np.int64))
    beams = np.stack([random.permutation(20) for _ in range(100)])
    beams[0, 12:] = -1
    scores = np.where(beams < 0, -np.inf, -np.arange(20.0))
    targets = np.where(random.random(100) < 0.7, beams[:, 0], beams[:, 3])  # what the T5 puts first, mostly
    found = ranker.tune_t5_weight(histories, beams, scores, targets)
    assert ranker.ranker.config.t5_weight == max(found, key=found.get) > 0 and found[0.0] < 0.6 < max(found.values())
    rows, t5, sums = ranker.order(histories, beams, scores, k=20)
    logits = ranker.score(list(histories), rows)
    there = rows >= 0
    np.testing.assert_allclose(sums[there], (logits + ranker.ranker.config.t5_weight * t5)[there], rtol=1e-5)
    assert (rows[0, 12:] == -1).all() and np.isneginf(sums[0, 12:]).all() and (np.diff(sums[1:], axis=1) <= 0).all()


def test_what_it_learned_from_is_kept_where_the_best_weight_is_none(recommender, tmp_path):
    """Validation chose the weight 0: the ranker is not measured there, now or after a reload."""
    ranker = recommender.ranker
    assert ranker.learned_from == "train"
    histories, beams = Sequences.from_rows([np.array([1])] * 2), np.arange(2, 26).reshape(2, 12)
    logits = ranker.score(list(histories), beams)
    scores = np.where(logits == logits.max(axis=1, keepdims=True), -1e6, 0.0)  # the T5 puts the ranker's first last
    ranker.tune_t5_weight(histories, beams, scores, beams[np.arange(2), logits.argmax(axis=1)])
    assert ranker.ranker.config.t5_weight == 0 and ranker.learned_from == "valid"
    recommender.save_pretrained(tmp_path / "model")
    assert TigerRecommender.from_pretrained(tmp_path / "model").ranker.learned_from == "valid"
    ranker.ranker.config.learned_from, ranker.ranker.config.t5_weight = None, 2.0  # as older versions saved it
    assert ranker.learned_from == "valid"


def test_lists_of_several_lengths(recommender):
    ranked, scores = recommender.rank([["i1"], ["i2"]], [["i3"], ["i4", "i5", "i6"]])
    assert ranked[0] == ["i3"] and set(ranked[1]) == {"i4", "i5", "i6"} and [len(s) for s in scores] == [1, 3]


def test_saved_in_one_directory(recommender, tmp_path, capsys):
    folder = tmp_path / "model"
    recommender.save_pretrained(folder)
    again = TigerRecommender.from_pretrained(folder)
    first, second = (tiger.recommend([["i1", "i2"]], k=5)[0] for tiger in (recommender, again))
    assert first == second
    main(["rank", str(folder), "--history", "i1", "--candidates", "i3", "i4", "--json"])
    assert {row["item_id"] for row in json.loads(capsys.readouterr().out)} == {"i3", "i4"}
    main(["rank", str(folder), "--candidates", "i3", "i4", "--filter", "item_id != 'i3'", "--json"])
    assert [row["item_id"] for row in json.loads(capsys.readouterr().out)] == ["i4"]
    with pytest.raises(SystemExit):
        main(["rank", str(folder), "--history", "i1", "--candidates", "nothing"])
    assert "'nothing'" in capsys.readouterr().err


def test_new_items_are_ranked_at_once(recommender):
    before, _ = recommender.rank([["i1"]], [["i3", "i4", "i5"]])
    recommender.add_items(["new-1", "i3"], ["tent lamp stove number 99", "known already"])
    ranked, scores = recommender.rank([["i1"]], [["new-1", "i3", "i4", "i5"]])
    assert [item for item in ranked[0] if item != "new-1"] == before[0] and np.isfinite(scores[0]).all()
    recommender.remove_items(["i4"])
    assert recommender.rank([["i1"]], [["new-1", "i3", "i5"]])[0][0] == [i for i in ranked[0] if i != "i4"]
    with pytest.raises(DataError, match="i4"):
        recommender.rank([["i1"]], [["i4"]])


def test_refuses_what_does_not_belong_together(recommender, fitted):  # noqa: F811
    tokenizer, encoder, items = fitted
    other = SemanticIdTokenizer((tokenizer.codes + 1) % 8, tokenizer.item_ids, 8)
    ranker = recommender.ranker
    with pytest.raises(ValueError, match="semantic IDs"):
        ClickRanker(ranker.ranker, ranker.features, other, encoder.encode(items["title"].to_pylist()))
    with pytest.raises(DataError, match="content vectors"):
        ClickRanker(ranker.ranker, ranker.features, tokenizer)
    with pytest.raises(ValueError, match="this ranker was made for semantic IDs"):
        TigerRecommender(make_model(other), other, ranker=ranker)
    dense = encoder.encode(items["title"].to_pylist())
    fewer = make_ranker(tokenizer, dense, "unigram+dense")
    fewer.keep_items(np.arange(5))
    with pytest.raises(ValueError, match="knows 5 items, the tokenizer"):
        TigerRecommender(recommender.model, tokenizer, ranker=fewer)
    wide = ranker_config(ranker.features, dense_dim=dense.shape[1], num_context=2)
    with pytest.raises(DataError, match="2 context columns, which a recommender does not have"):
        ClickRanker(SemanticIdRanker(wide), ranker.features, tokenizer, dense)
    with pytest.raises(DataError, match="no ranker"):
        TigerRecommender(recommender.model, tokenizer).rank([["i1"]], [["i2"]])
    with pytest.raises(ValueError, match="needs a ranker"):
        recommender.recommend([["i1"]], rank=False, both_scores=True)


def test_whatever_it_reads_is_in_its_digest(recommender):
    known, tokenizer = recommender.ranker, recommender.tokenizer
    dense = known._dense.numpy()

    def make(vectors=dense, **config):
        ranker = make_ranker(tokenizer, vectors, "unigram+dense")
        ranker.ranker.config.update(config)
        return ranker

    assert make().digest() == known.digest()
    others = [make(-dense), make(t5_weight=2.0), make(max_history=3)]
    assert len({one.digest() for one in [known, *others]}) == 4
    moved = make()
    moved._rows = moved._rows.flip(0)  # of other features
    assert moved.digest() != known.digest()


def test_a_weight_that_was_tuned_with_a_memory_is_not_asked_without(recommender, tmp_path):
    recommender.memory = make_memory()
    ranker, ids = recommender.ranker, recommender.tokenizer.item_ids
    ask = partial(recommender.recommend, [["i1", "i2"]], k=5, num_beams=20)
    ask(), ask(memory=False)  # it reads no score
    histories, beams = Sequences.from_rows([np.array([1])] * 20), np.tile(np.arange(2, 14), (20, 1))
    scores = np.tile(-np.arange(12.0), (20, 1))
    for learned, other in ((True, False), (False, True)):
        ranker.tune_t5_weight(histories, beams, scores, beams[:, 0], with_memory=learned)
        assert ranker.ranker.config.t5_weight > 0
        with pytest.raises(DataError, match=f"learned from searches {'with' if learned else 'without'} a memory"):
            ask(memory=other)
        assert ask(memory=learned)[0] != ask(memory=other, rank=False)[0] and len(ids) == 40
        recommender.save_pretrained(tmp_path / "model")
        assert TigerRecommender.from_pretrained(tmp_path / "model").ranker.learned_with_memory is learned
    ranker.ranker.config.learned_with_memory = None  # as older versions saved it
    ask(), ask(memory=False)
