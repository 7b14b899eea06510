import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import Unigram

from tiger.rankers.click import hashes
from tiger.rankers.click.features import KINDS, PRIVATE_USE, ItemFeatures
from tiger.rankers.click.hashes import code_keys
from tiger.utils.errors import DataError

NUM_ITEMS, LEVELS, SIZE = 400, 3, 16


def make_codes(seed=0):
    return np.random.default_rng(seed).integers(0, SIZE, (NUM_ITEMS, LEVELS))


IDS = [f"item-{index}" for index in range(NUM_ITEMS)]
IMPRESSIONS = np.random.default_rng(1).integers(0, 20, NUM_ITEMS)


@pytest.mark.parametrize("kind", [*KINDS, "spm+dense", "random_hash+spm", "unigram+ngram"])
@pytest.mark.parametrize("budget", [200, 5000])
def test_rows_stay_within_the_budget(kind, budget):
    features = ItemFeatures.fit(kind, budget, make_codes(), SIZE, IMPRESSIONS)
    rows = features.rows(IDS, make_codes())
    assert rows.shape == (NUM_ITEMS, features.width) and rows.dtype == np.int32
    assert rows.size == 0 or (rows.min() >= 0 and rows.max() <= budget)
    assert features.uses_dense == ("dense" in kind.split("+"))


def test_parts_do_not_share_rows():
    features = ItemFeatures.fit("random_hash+unigram", 1000, make_codes(), SIZE)
    rows = features.rows(IDS, make_codes())
    assert rows[:, :2].max() < 500 <= rows[:, 2:].min()


def test_small_spaces_are_not_hashed():
    codes = np.array([[0, 1, 2], [0, 1, 3], [5, 1, 2]])
    unigram = ItemFeatures("unigram", 48, LEVELS, SIZE).rows(IDS[:3], codes)
    assert unigram.tolist() == [[0, 17, 34], [0, 17, 35], [5, 17, 34]]
    bigram = ItemFeatures("ngram", 512, LEVELS, SIZE).rows(IDS[:3], codes)
    assert bigram.tolist() == [[1, 256 + 18], [1, 256 + 19], [81, 256 + 18]]
    prefix = ItemFeatures("prefix_ngram", 16 + 256 + 4096, LEVELS, SIZE).rows(IDS[:3], codes)
    assert prefix.tolist() == [[0, 17, 290], [0, 17, 291], [5, 97, 16 + 256 + 5 * 256 + 18]]


def test_large_spaces_are_hashed_with_position():
    codes = np.array([[1, 2, 1], [2, 1, 2]])
    bigrams = ItemFeatures("ngram", 100, LEVELS, SIZE).rows(IDS[:2], codes)
    assert bigrams[0, 0] != bigrams[1, 1]  # (1, 2) in the first place and in the second
    prefixes = ItemFeatures("prefix_ngram", 100, LEVELS, SIZE).rows(IDS[:2], np.array([[1, 2, 3], [1, 2, 4]]))
    assert (prefixes[0, :2] == prefixes[1, :2]).all() and prefixes[0, 2] != prefixes[1, 2]


def test_hashing_spreads_and_depends_on_the_seed():
    a, b = (ItemFeatures("random_hash", 1000, LEVELS, SIZE, seed=seed).rows(IDS) for seed in (0, 1))
    assert not np.array_equal(a, b)
    assert np.array_equal(a, ItemFeatures("random_hash", 1000, LEVELS, SIZE).rows(IDS))
    assert len(np.unique(a)) > 0.85 * 1000 * (1 - np.exp(-800 / 1000))


def test_pieces_are_learned_from_what_was_shown_alone():
    codes, impressions = make_codes(), IMPRESSIONS.copy()
    impressions[200:] = 0
    first = ItemFeatures.fit("spm", 300, codes, SIZE, impressions)
    codes[200:] = (codes[200:] + 5) % SIZE
    second = ItemFeatures.fit("spm", 300, codes, SIZE, impressions)
    third = ItemFeatures.fit("spm", 300, codes[:200], SIZE, impressions[:200])
    assert first.fingerprint == second.fingerprint == third.fingerprint


def test_pieces_are_what_items_share():
    codes, impressions = make_codes(), np.ones(NUM_ITEMS, dtype=int)
    codes[:40, :2] = [3, 4]  # a prefix of many items
    codes[0] = [3, 4, 5]
    impressions[0] = 10_000  # shown a lot, and still not a piece by itself: no other item would learn from it
    features = ItemFeatures.fit("spm", 300, codes, SIZE, impressions)
    assert {len(piece) for piece in features._pieces.scores} == {1, 2}
    rows = features.rows(["new", "x"], np.array([[3, 4, 15], [3, 4, 5]]))
    assert rows[0, 0] == rows[1, 0] and (rows < 300).sum() == 4
    # Four codes, and pieces of three.
    longer = np.concatenate([codes, np.arange(NUM_ITEMS)[:, None] % SIZE], axis=1)
    longer[:40, :3] = [3, 4, 5]
    features = ItemFeatures.fit("spm", 300, longer, SIZE, np.ones(NUM_ITEMS, dtype=int))
    assert {len(piece) for piece in features._pieces.scores} >= {1, 2, 3}


def test_the_cut_is_that_of_tokenizers():
    features = ItemFeatures.fit("spm", 300, make_codes(), SIZE, IMPRESSIONS)
    scores = features._pieces.scores
    theirs = Tokenizer(Unigram([("<unk>", 0.0), *scores.items()], unk_id=0))
    codes = np.concatenate([make_codes(), make_codes(seed=7)])
    texts = ["".join(chr(PRIVATE_USE + code + SIZE * level) for level, code in enumerate(row)) for row in codes]
    ours = features.rows(IDS + IDS, codes)
    found = [encoding.ids for encoding in theirs.encode_batch(texts, add_special_tokens=False)]
    assert [row[row < 300].tolist() for row in ours] == found
    assert len({len(pieces) for pieces in found}) > 1


def test_new_items_get_features_from_their_codes():
    features = ItemFeatures.fit("spm", 300, make_codes(), SIZE, IMPRESSIONS)
    new = make_codes(seed=9)[:10]
    assert (features.rows([f"new-{index}" for index in range(10)], new) < 300).any(axis=1).all()


def test_save_and_load(tmp_path):
    features = ItemFeatures.fit("random_hash+spm", 300, make_codes(), SIZE, IMPRESSIONS, num_hashes=3, seed=4)
    features.save_pretrained(tmp_path)
    again = ItemFeatures.from_pretrained(tmp_path)
    assert again.fingerprint == features.fingerprint
    assert np.array_equal(again.rows(IDS, make_codes()), features.rows(IDS, make_codes()))
    with pytest.raises(DataError, match="is missing"):
        ItemFeatures.from_pretrained(tmp_path / "nowhere")


def test_items_without_codes():
    codes = make_codes()[:3]
    codes[1] = -1
    with pytest.raises(DataError, match="'item-1' has no codes"):
        ItemFeatures("random_hash+unigram", 100, LEVELS, SIZE).rows(IDS[:3], codes)
    with pytest.raises(DataError, match="'item-1' has no codes"):
        ItemFeatures("unigram", 100, LEVELS, SIZE).rows(IDS[:3], codes)
    rows = ItemFeatures("unigram+dense", 100, LEVELS, SIZE).rows(IDS[:3], codes)
    assert (rows[1] == 100).all() and (rows[0] < 100).all()


def test_bad_settings(tmp_path):
    codes = make_codes()
    for number in (0, 65):  # of which a saved one would not be read
        with pytest.raises(DataError, match=f"num_hashes must be between 1 and 64, got {number}"):
            ItemFeatures.fit("random_hash", 300, codes, SIZE, num_hashes=number)
    features = ItemFeatures.fit("random_hash", 300, codes, SIZE, num_hashes=64)
    assert features.rows(IDS, codes).shape[1] == 64
    features.save_pretrained(tmp_path)
    assert ItemFeatures.from_pretrained(tmp_path).num_hashes == 64
    file = tmp_path / "item_features.json"
    file.write_text(file.read_text().replace('"num_hashes": 64', '"num_hashes": 65'))
    with pytest.raises(DataError, match="item_features.json.*num_hashes"):
        ItemFeatures.from_pretrained(tmp_path)
    with pytest.raises(DataError, match="kind must be one of"):
        ItemFeatures("words", 100, LEVELS, SIZE)
    with pytest.raises(DataError, match="kind must be one of"):
        ItemFeatures("unigram+unigram", 100, LEVELS, SIZE)
    with pytest.raises(DataError, match="spm needs a row for each of 48 codes"):
        ItemFeatures.fit("spm", 48, codes, SIZE)
    with pytest.raises(DataError, match="there are none"):
        ItemFeatures.fit("spm", 300, codes, SIZE, np.zeros(NUM_ITEMS, dtype=int))
    with pytest.raises(DataError, match="vocabulary to learn"):
        ItemFeatures("spm", 300, LEVELS, SIZE)
    with pytest.raises(DataError, match="codes go up to"):
        ItemFeatures("unigram", 100, LEVELS, 8).rows(IDS, codes)
    with pytest.raises(DataError, match="needs codes"):
        ItemFeatures("unigram", 100, LEVELS, SIZE).rows(IDS)


@pytest.mark.parametrize("levels, size", [(3, 256), (8, 256), (8, 2048)])
def test_a_tuple_of_codes_is_one_number(levels, size):
    codes = np.random.default_rng(0).integers(0, size, (5000, levels))
    codes = np.concatenate([codes, codes[:100]])
    keys = code_keys(codes, size)
    assert keys.dtype == np.uint64
    assert len(np.unique(keys)) == len(np.unique(codes, axis=0)) == 5000
    assert np.array_equal(keys[:100], keys[-100:])
    if levels * size.bit_length() <= 72:  # 8 levels of 256 fill the 64 bits
        assert np.array_equal(np.argsort(keys[:5000]), np.lexsort(codes[:5000].T[::-1]))


def test_tuples_with_one_hash_are_told(monkeypatch):
    monkeypatch.setattr(hashes, "mix_columns", lambda columns: np.zeros(columns.shape[1], dtype=np.uint64))
    with pytest.raises(DataError, match="64-bit hash"):
        code_keys(np.arange(16).reshape(2, 8), 2048)


@pytest.mark.parametrize("spare", [1, 2, 3])
def test_pieces_keep_to_a_budget_hardly_larger_than_the_alphabet(spare):
    budget = LEVELS * SIZE + spare
    features = ItemFeatures.fit("random_hash+spm", 2 * budget, make_codes(), SIZE, IMPRESSIONS)
    rows = features.rows(IDS, make_codes())[:, features.num_hashes :]
    real = rows[rows < 2 * budget]
    assert real.min() >= budget and len(np.unique(real)) >= LEVELS * SIZE - 1


def test_one_level_will_do_where_no_bigrams_are_read():
    codes = make_codes()[:, :1]
    assert ItemFeatures.fit("random_hash+unigram", 100, codes, SIZE).rows(IDS, codes).shape[1] == 3
    with pytest.raises(DataError, match="n must be between 1 and the number of levels, 1"):
        ItemFeatures.fit("ngram", 100, codes, SIZE)
