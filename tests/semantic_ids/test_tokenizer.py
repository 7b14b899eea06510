import copy
import hashlib
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_tokenizer
from tests.processes import in_another_process
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.semantic_ids.tokenizer import Cooccurrence, SemanticIdTokenizer
from tiger.utils.errors import DataError

catalogues = st.tuples(st.integers(1, 4), st.integers(2, 6)).flatmap(
    lambda shape: st.tuples(
        st.just(shape[1]),
        st.lists(
            st.lists(st.integers(0, shape[1] - 1), min_size=shape[0], max_size=shape[0]), min_size=1, max_size=50
        ),
    )
)


@settings(max_examples=80, deadline=None)
@given(catalogues)
def test_round_trips(catalogue):
    size, codes = catalogue
    tokenizer = SemanticIdTokenizer(np.array(codes), [f"i{n}" for n in range(len(codes))], size)
    assert len(np.unique(tokenizer.semantic_ids, axis=0)) == len(codes)
    assert np.array_equal(tokenizer.codes, codes)
    rows = np.arange(len(codes))
    assert np.array_equal(tokenizer.decode(tokenizer.encode(rows)), rows)
    packed = tokenizer.pack(tokenizer.semantic_ids)
    assert packed.dtype == np.uint64
    assert np.array_equal(tokenizer.unpack(packed), tokenizer.semantic_ids)
    assert np.array_equal(np.argsort(packed), np.lexsort(tokenizer.semantic_ids.T[::-1]))
    assert tokenizer.token_table.min() >= 1 and tokenizer.token_table.max() < tokenizer.vocab_size


@settings(max_examples=60, deadline=None)
@given(catalogues, st.integers(1, 49))
def test_adding_keeps_old_ids_and_removing_keeps_the_rest(catalogue, cut):
    size, codes = catalogue
    codes, names = np.array(codes), [f"i{n}" for n in range(len(codes))]
    cut = min(cut, len(codes))
    tokenizer = SemanticIdTokenizer(codes[:cut], names[:cut], size)
    before = tokenizer.semantic_ids.copy()
    rows = tokenizer.add_items(names, codes=codes)
    assert rows.tolist() == list(range(len(codes)))
    assert np.array_equal(tokenizer.semantic_ids[:cut], before)
    assert len(np.unique(tokenizer.semantic_ids, axis=0)) == len(codes)
    again = tokenizer.semantic_ids.copy()
    assert tokenizer.add_items(names, codes=codes).tolist() == list(range(len(codes)))
    assert np.array_equal(tokenizer.semantic_ids, again)
    if len(codes) > 1:
        stay = tokenizer.remove_items(names[:1])
        assert stay.tolist() == list(range(1, len(codes)))
        assert np.array_equal(tokenizer.semantic_ids, again[1:])
        assert tokenizer.rows(names[1:]).tolist() == list(range(len(codes) - 1))


def test_collisions_do_not_follow_the_order_of_rows_or_ids():
    names = [f"B{n:07d}" for n in range(100)]
    codes = np.zeros((100, 2), dtype=int)
    tokenizer = SemanticIdTokenizer(codes, names, 4)
    reverse = SemanticIdTokenizer(codes, names[::-1], 4)
    assert np.array_equal(tokenizer.semantic_ids, reverse.semantic_ids[::-1])
    assert abs(np.corrcoef(tokenizer.semantic_ids[:, -1], np.arange(100))[0, 1]) < 0.3
    assert tokenizer.vocabulary.collision_size == 100 and tokenizer.vocab_size == 1 + 2 * 4 + 100


def test_large_codebooks_leave_little_room_for_collisions():
    distinct = np.arange(20).reshape(4, 5)
    tokenizer = SemanticIdTokenizer(distinct, list("abcd"), 2048)
    assert np.array_equal(tokenizer.unpack(tokenizer.pack(tokenizer.semantic_ids)), tokenizer.semantic_ids)
    with pytest.raises(ValueError, match="600 items share their codes, more than 9 bits"):
        SemanticIdTokenizer(np.zeros((600, 5), dtype=int), [str(n) for n in range(600)], 2048)


def test_rows_of_ids_and_padding():
    tokenizer = make_tokenizer(20)
    assert tokenizer.rows(["item-3", "nobody"], missing=-1).tolist() == [3, -1]
    with pytest.raises(KeyError):
        tokenizer.rows(["nobody"])
    assert tokenizer.encode([-1]).tolist() == [[0, 0, 0, 0]]
    assert tokenizer.decode(np.array([[0, 0, 0, 0], [1, 1, 1, 1], [99, 0, 0, 7]])).tolist() == [-1, -1, -1]


def test_save_and_load_byte_for_byte(tmp_path):
    tokenizer = make_tokenizer(300)
    tokenizer.add_items(["neu-ß", "新"], codes=np.zeros((2, 3), dtype=int))
    tokenizer.save_pretrained(tmp_path / "a")
    loaded = SemanticIdTokenizer.from_pretrained(tmp_path / "a")
    loaded.save_pretrained(tmp_path / "b")
    first, second = ((tmp_path / name / "semantic_ids.safetensors").read_bytes() for name in "ab")
    assert first == second
    assert loaded.item_ids == tokenizer.item_ids and loaded.fingerprint == tokenizer.fingerprint
    assert np.array_equal(loaded.semantic_ids, tokenizer.semantic_ids)
    # And in another process, whose hashes are salted otherwise.
    script = (
        "import sys; from tiger.semantic_ids.tokenizer import SemanticIdTokenizer as T; "
        "T.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "a", tmp_path / "c"], check=True, timeout=120)
    assert (tmp_path / "c" / "semantic_ids.safetensors").read_bytes() == first


def test_damaged_or_foreign_files_are_named(tmp_path):
    with pytest.raises(DataError, match="is missing"):
        SemanticIdTokenizer.from_pretrained(tmp_path)
    tokenizer = make_tokenizer(300)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "semantic_ids.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        SemanticIdTokenizer.from_pretrained(tmp_path)
    file.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(DataError, match="format 9"):
        SemanticIdTokenizer.from_pretrained(tmp_path)


def test_wrong_input():
    with pytest.raises(DataError, match="row 1.*0..3"):
        SemanticIdTokenizer(np.array([[1, 2], [1, 4]]), ["a", "b"], 4)
    with pytest.raises(DataError, match="'a' occurs more than once"):
        SemanticIdTokenizer(np.array([[1, 2], [1, 3]]), ["a", "a"], 4)
    with pytest.raises(DataError, match="integers"):
        SemanticIdTokenizer(np.array([[1.0, 2.0]]), ["a"], 4)
    with pytest.raises(DataError, match="1 item ids for 2 rows"):
        SemanticIdTokenizer(np.array([[1, 2], [1, 3]]), ["a"], 4)
    with pytest.raises(DataError, match="64 bits: give num_codebooks=5 or less"):
        SemanticIdTokenizer(np.zeros((1, 8), dtype=int), ["a"], 2048)
    with pytest.raises(DataError, match="strings, got 1"):
        SemanticIdTokenizer(np.array([[1, 2]]), [1], 4)
    with pytest.raises(DataError, match="rqvae, residual-kmeans"):
        SemanticIdTokenizer.fit(np.zeros((1, 2)), ["a"], quantizer="magic")
    tokenizer = make_tokenizer(5)
    with pytest.raises(ValueError, match="no quantizer"):
        tokenizer.add_items(["new"], embeddings=np.zeros((1, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="all its items"):
        tokenizer.remove_items([f"item-{n}" for n in range(5)])


def test_a_million_items_are_numbered_quickly():
    codes = np.random.default_rng(0).integers(0, 64, (1_000_000, 3))
    names = [str(n) for n in range(len(codes))]
    start = time.process_time()
    tokenizer = SemanticIdTokenizer(codes, names, 64)
    assert time.process_time() - start < 20
    assert hashlib.sha256(tokenizer.semantic_ids.tobytes()).hexdigest()[:8] == "d6f11144"


def test_prefixes_are_tokens_and_stay_what_they_are():
    codes = np.random.default_rng(0).integers(0, 6, (200, 3))
    ids = [f"i{row}" for row in range(200)]
    tokenizer = SemanticIdTokenizer(codes[:150], ids[:150], 8, tokens="prefixes")

    def check():
        """One token a prefix, one prefix a token; whole IDs stand for their items."""
        for level in range(4):
            found: dict[tuple, int] = {}
            for prefix, token in zip(tokenizer.semantic_ids[:, : level + 1].tolist(), tokenizer.token_table[:, level]):
                assert found.setdefault(tuple(prefix), token) == token
            assert len(set(found.values())) == len(found)
        rows = np.arange(len(tokenizer))
        assert np.array_equal(tokenizer.decode(tokenizer.encode(rows)), rows)
        assert 1 <= tokenizer.token_table.min() and tokenizer.token_table.max() < tokenizer.vocab_size
        assert np.array_equal(tokenizer.encode_history(rows), tokenizer.token_table[:, -1])

    check()
    assert tokenizer.token_table[:, 0].max() == 6 and tokenizer.history_depth == 1
    before, size = tokenizer.token_table.copy(), tokenizer.vocab_size
    tokenizer.add_items(ids[150:], codes=codes[150:])
    check()
    assert np.array_equal(tokenizer.token_table[:150], before) and tokenizer.token_table[150:, -1].min() >= size
    moved = tokenizer.update_items(["i3", "i9"], codes=np.array([[7, 7, 7], codes[9]]))
    assert moved.tolist() == [True, False] and tokenizer.token_table[3, -1] > before.max()
    check()
    tokenizer.remove_items(["i5", "i190"])
    check()
    assert tokenizer.decode([[0] * 4, [1] * 4, [10**6] * 4]).tolist() == [-1, -1, -1]


def test_prefix_tokens_survive_saving(tmp_path):
    tokenizer = make_tokenizer(60, tokens="prefixes")
    tokenizer.remove_items(["item-7"])  # its tokens stay taken
    tokenizer.save_pretrained(tmp_path)
    loaded = SemanticIdTokenizer.from_pretrained(tmp_path)
    assert loaded.tokens == "prefixes" and loaded.vocab_size == tokenizer.vocab_size
    assert np.array_equal(loaded.token_table, tokenizer.token_table)
    for one in (tokenizer, loaded):
        one.add_items(["new"], codes=np.array([[7, 7, 7]]))
    assert np.array_equal(loaded.token_table, tokenizer.token_table)
    plain = tokenizer.with_tokens("codes")
    assert plain.vocab_size == 1 + 4 * 8 and plain.fingerprint == tokenizer.fingerprint
    assert np.array_equal(plain.semantic_ids, tokenizer.semantic_ids)
    with pytest.raises(DataError, match="codes, prefixes"):
        tokenizer.with_tokens("words")


def test_codes_of_texts_and_log():
    rng = np.random.default_rng(0)
    kind, company = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    texts = np.eye(2)[kind] + rng.normal(scale=0.01, size=(200, 2))
    log = 1e3 * (np.eye(2)[company] + rng.normal(scale=0.01, size=(200, 2)))
    options = {"num_codebooks": 1, "codebook_size": 4, "quantizer": "residual-kmeans", "progress": False}
    items = [str(n) for n in range(200)]
    tokenizer = SemanticIdTokenizer.fit(
        texts, items, cooccurrence=Cooccurrence(log, {"shuffle_ties": None}), **options
    )
    groups = np.unique(np.column_stack([tokenizer.codes, kind, company]), axis=0)
    assert len(groups) == 4 == len(np.unique(groups[:, 0]))
    (row,) = tokenizer.add_items(["new"], texts[:1])  # by its text alone
    assert tokenizer.codes[row, 0] in groups[groups[:, 1] == kind[0], 0]
    with pytest.raises(ValueError, match="needs learned_split"):
        SemanticIdTokenizer.fit(texts, items, cooccurrence=log, **options)
    with pytest.raises(DataError, match="need residual-kmeans"):
        SemanticIdTokenizer.fit(texts, items, cooccurrence=Cooccurrence(log, {}), num_codebooks=1)
    with pytest.warns(DeprecationWarning, match="argument log of .*is now cooccurrence"):
        old = SemanticIdTokenizer.fit(texts, items, log=log, learned_split={"shuffle_ties": None}, **options)
    assert old.fingerprint == tokenizer.fingerprint and old.learned_split == tokenizer.learned_split


@pytest.mark.parametrize("size", [16, 300])
def test_a_fitted_quantizer_says_how_many_codes_there_are(tmp_path, size):
    vectors = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    fitted = ResidualKMeans.fit(vectors, num_codebooks=2, codebook_size=size, iterations=2, progress=False)
    tokenizer = SemanticIdTokenizer.fit(vectors, [str(n) for n in range(400)], quantizer=fitted)
    tokenizer.save_pretrained(tmp_path)
    loaded = SemanticIdTokenizer.from_pretrained(tmp_path)
    assert loaded.codebook_size == size and np.array_equal(loaded.semantic_ids, tokenizer.semantic_ids)


def test_too_many_levels_are_refused_before_anything_is_fitted():
    class Unused(ResidualKMeans):
        @classmethod
        def fit(cls, *args, **options):
            raise AssertionError

    with pytest.raises(DataError, match="8 codes of 8 bits .* 64 bits: give num_codebooks=7 or less"):
        SemanticIdTokenizer.fit(np.zeros((1, 2)), ["a"], num_codebooks=8, codebook_size=200, quantizer=Unused)


def test_a_copy_is_independent():
    tokenizer = make_tokenizer(40)
    tokenizer.add_items(["new"], codes=np.array([[1, 2, 3]]))
    before = tokenizer.semantic_ids.copy()
    for other in (copy.deepcopy(tokenizer), in_another_process(copy.copy, tokenizer)):
        other.add_items(["another"], codes=np.array([[1, 2, 3]]))
        other.semantic_ids[0] = 7
        assert len(tokenizer) == 41 and np.array_equal(tokenizer.semantic_ids, before)
        assert other.rows(["new", "another"]).tolist() == [40, 41]
