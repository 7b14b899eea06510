import errno
import json
import resource
import shutil
import tracemalloc

import huggingface_hub
import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from tiger.embeddings import sentence_encoder as module
from tiger.embeddings.auto import load_encoder
from tiger.embeddings.base import check_embeddings, load_embeddings
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.embeddings.sentence_encoder import SentenceEncoder
from tiger.utils.errors import DataError

TEXTS = ["red rose soap", "green tea soap", "steel garden spade", "garden hose green", "rose tea"]


@pytest.fixture
def items():
    return pa.table(
        {
            "item_id": ["a", "b", "c"],
            "year": [1999, None, 2003],
            "genres": [["Drama", "War"], [], None],
            "price": pa.array([5.0, 4.99, float("nan")], pa.float32()),
            "brand": ["  Acme\n& Co ", "", None],
            "title": ["Soap", None, "Spade"],
        }
    )


def test_default_texts_leave_out_what_is_missing(items):
    assert item_texts(items) == [
        "Title: Soap; Price: 5; Brand: Acme & Co; Genres: Drama, War",
        "Price: 4.99",
        "Title: Spade",
    ]


def test_template_names_columns_in_order(items):
    items = items.slice(0, 1).append_column("made_in", pa.array(["Peru"]))
    assert item_texts(items, "year, made_in,title") == ["Year: 1999; Made in: Peru; Title: Soap"]


def test_urls_are_no_words_of_an_item():
    items = pa.table(
        {"item_id": ["a"], "title": ["Soap"], "image_url": ["https://x.com/a.jpg"], "url": ["https://x.com"]}
    )
    assert item_texts(items) == ["Title: Soap"]
    assert item_texts(items, "title,url") == ["Title: Soap; Url: https://x.com"]  # unless they are named


def test_dictionary_encoded_and_chunked_columns():
    table = pa.table({"item_id": ["a", "b"], "brand": pa.array(["x", "y"]).dictionary_encode()})
    assert item_texts(pa.concat_tables([table, table])) == ["Brand: x", "Brand: y"] * 2


def test_text_of_every_kind_of_column_is_read():
    """Views, dictionaries, run ends, bytes of UTF-8 as Spark writes them, and lists of these."""
    words = ["x", "y"]
    columns = {
        "view": pa.array(words, pa.string_view()),
        "large": pa.array(words, pa.large_string()),
        "of_views": pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(words, pa.string_view())),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), pa.array(words)),
        "bytes": pa.array([b"x", b"y"]),
        "bytes_view": pa.array([b"x", b"y"], pa.binary_view()),
        "lists": pa.array([["x"], ["y"]], pa.list_view(pa.string())),
        "large_lists": pa.array([["x"], ["y"]], pa.large_list_view(pa.string_view())),
        "fixed": pa.array([["x"], ["y"]], pa.list_(pa.string(), 1)),
    }
    table = pa.table({"item_id": ["a", "b"], **columns, "picture": [b"\xff", b"\x00"], "facts": [{"a": 1}] * 2})
    labels = [name.replace("_", " ").capitalize() for name in columns]
    assert item_texts(table) == ["; ".join(f"{label}: {word}" for label in labels) for word in words]


@pytest.mark.parametrize("value", [{"a": 1}, b"\xff", [{"a": 1}]])
def test_columns_that_make_no_text_are_named(value):
    table = pa.table({"item_id": ["a"], "title": pa.array([value])})
    with pytest.raises(DataError, match="no text can be made of column 'title', which is .*Convert, rename or drop"):
        item_texts(table)
    with pytest.raises(DataError, match="'facts'"):
        item_texts(table.rename_columns(["item_id", "facts"]), "facts")


def test_a_column_twice_is_named():
    with pytest.raises(DataError, match="column 'title' twice"):
        item_texts(pa.Table.from_arrays([pa.array(["a"])] * 3, names=["item_id", "title", "title"]))


@pytest.mark.parametrize("template", ["title,colour", "item_id", ""])
def test_unknown_column_is_named(items, template):
    with pytest.raises(DataError, match=repr(template.split(",")[-1])):
        item_texts(items, template)


def test_item_without_text_is_named(items):
    with pytest.raises(DataError, match=r"'b' \(row 1\) has no text in title, brand"):
        item_texts(items, "title,brand")


def test_no_text_column():
    with pytest.raises(DataError, match="no column of text"):
        item_texts(pa.table({"item_id": ["a"], "weight": [1.0]}))


# Precomputed embeddings


def test_check_embeddings():
    matrix = np.ones((3, 2), np.float32)
    assert check_embeddings(matrix) is matrix
    assert check_embeddings(torch.ones(3, 2, dtype=torch.bfloat16)).dtype == np.float32
    matrix = matrix.copy()
    matrix[1, 0], matrix[2, 1] = np.nan, np.inf
    with pytest.raises(DataError, match=r"2 of 3 rows hold NaN or infinity \(rows 1, 2\)"):
        check_embeddings(matrix)
    matrix = np.array([[1e15, 0], [0, -1e20], [2e15, 0]], np.float32)
    with pytest.raises(DataError, match=r"2 of 3 rows hold numbers beyond 1e\+15 \(rows 1, 2\)"):
        check_embeddings(matrix)
    assert check_embeddings(matrix[:1]) is not None
    for wrong in (np.ones(3), np.ones((0, 2)), np.array([["a"]])):
        with pytest.raises(DataError, match="must be a matrix of numbers"):
            check_embeddings(wrong)


def test_load_embeddings(tmp_path):
    file = tmp_path / "e.safetensors"
    with pytest.raises(DataError, match="is missing"):
        load_embeddings(file, 2)
    save_file({"embeddings": np.array([[0.5, 1], [2, 3]], np.float16)}, file)
    loaded = load_embeddings(file, 2)
    assert loaded.dtype == np.float32 and loaded.tolist() == [[0.5, 1], [2, 3]]
    with pytest.raises(DataError, match="2 rows but there are 3 items"):
        load_embeddings(file, 3)
    save_file({"vectors": np.ones((2, 2), np.float32)}, file)
    with pytest.raises(DataError, match="vectors"):
        load_embeddings(file, 2)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        load_embeddings(file, 2)


# Sentence-T5: the real loading code on a small model of its shape


@pytest.fixture(scope="module")
def sentence_t5(tmp_path_factory):
    """Random weights in the layout of sentence-t5-base: T5 encoder, mean pooling, dense layer, unit length."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    folder = tmp_path_factory.mktemp("sentence-t5")
    words = ["<pad>", "</s>", "<unk>", *sorted({word for text in TEXTS for word in text.split()})]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=32
    ).save_pretrained(folder / "t5")
    torch.manual_seed(0)
    T5EncoderModel(
        T5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ).save_pretrained(folder / "t5")
    dense = Dense(16, 24, bias=False, activation_function=torch.nn.Identity())
    modules = [Transformer(str(folder / "t5"), max_seq_length=32), Pooling(16, "mean"), dense, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


@pytest.fixture
def counted(monkeypatch):
    """Texts that the model itself was asked to embed, in any encoder."""
    seen = []
    load = SentenceEncoder._load

    def counting(self):
        model = load(self)
        encode = model.encode

        def count(texts, **settings):
            seen.extend(texts)
            return encode(texts, **settings)

        monkeypatch.setattr(model, "encode", count)
        return model

    monkeypatch.setattr(SentenceEncoder, "_load", counting)
    return seen


def make(path, cache, **settings):
    return SentenceEncoder(path, device="cpu", cache_dir=cache, progress=False, **settings)


def test_sentence_t5_vectors(sentence_t5, tmp_path):
    vectors = SentenceEncoder(sentence_t5, batch_size=2, device="cpu", cache_dir=tmp_path, progress=False).encode(
        TEXTS
    )
    assert vectors.shape == (5, 24) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    from sentence_transformers import SentenceTransformer

    alone = SentenceTransformer(str(sentence_t5), device="cpu").encode(TEXTS[3])
    np.testing.assert_allclose(vectors[3], alone, atol=1e-5)  # order survives the sorting by length


def test_cache_embeds_only_what_changed(sentence_t5, tmp_path, counted):
    first = make(sentence_t5, tmp_path).encode([*TEXTS, TEXTS[0]])
    assert sorted(counted) == sorted(TEXTS)  # the text that occurs twice once
    np.testing.assert_array_equal(first[0], first[5])

    counted.clear()
    again = make(sentence_t5, tmp_path).encode(TEXTS[::-1])
    assert counted == []
    np.testing.assert_array_equal(again, first[:5][::-1])

    changed = make(sentence_t5, tmp_path).encode(["red rose", *TEXTS[1:]])
    assert counted == ["red rose"]
    np.testing.assert_array_equal(changed[1:], first[1:5])


def test_cache_is_kept_apart_by_weights(sentence_t5, tmp_path, counted):
    make(sentence_t5, tmp_path / "cache").encode(TEXTS)
    shutil.copytree(sentence_t5, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("another")
    make(tmp_path / "model", tmp_path / "cache").encode(TEXTS)
    assert len(counted) == 2 * len(TEXTS)


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "nan"])
def test_corrupted_cache_is_reported_and_rebuilt(sentence_t5, tmp_path, counted, damage):
    first = make(sentence_t5, tmp_path).encode(TEXTS)
    (file,) = tmp_path.rglob("*.safetensors")
    if damage == "nan":
        hashes = np.concatenate([np.frombuffer(module.hashlib.sha256(t.encode()).digest(), np.uint8) for t in TEXTS])
        save_file({"hashes": hashes.reshape(-1, 32), "vectors": np.full((5, 24), np.nan, np.float32)}, file)
    else:
        whole = file.read_bytes()
        file.write_bytes({"cut": whole[:-7], "garbage": b"\x93" * 64, "empty": b""}[damage])
    with pytest.warns(UserWarning, match="can't be read"):
        again = make(sentence_t5, tmp_path).encode(TEXTS)
    assert len(counted) == 2 * len(TEXTS)
    np.testing.assert_allclose(again, first, atol=1e-6)
    make(sentence_t5, tmp_path).encode(TEXTS)
    assert len(counted) == 2 * len(TEXTS)


def test_many_cache_files_are_merged(sentence_t5, tmp_path, counted, monkeypatch):
    monkeypatch.setattr(module._VectorCache, "max_files", 2)
    encoder = make(sentence_t5, tmp_path)
    vectors = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert len(list(tmp_path.rglob("*.safetensors"))) < len(TEXTS)
    counted.clear()
    np.testing.assert_array_equal(make(sentence_t5, tmp_path).encode(TEXTS), vectors)
    assert counted == []
    assert all(file.suffix == ".safetensors" for file in tmp_path.glob("*/*"))  # nothing temporary is left


def test_cache_files_are_merged_as_far_as_memory_is_meant_for_it(sentence_t5, tmp_path, monkeypatch):
    monkeypatch.setattr(module._VectorCache, "max_files", 2)
    monkeypatch.setattr(module._VectorCache, "max_bytes", 1000)
    read = []
    monkeypatch.setattr(module, "load_file", lambda file: read.append(file.stat().st_size) or load_file(file))
    encoder = make(sentence_t5, tmp_path)
    vectors = np.concatenate([encoder.encode([text]) for text in TEXTS[:3]])
    assert not read
    encoder.encode(TEXTS[:1])  # three files of 300 bytes
    assert len(read) == 3 and sum(read) <= 1000
    read.clear()
    for text in TEXTS[3:]:
        vectors = np.concatenate([vectors, encoder.encode([text])])
    np.testing.assert_array_equal(encoder.encode(TEXTS), vectors)
    assert len(read) == 2  # the larger one stays as it is


def test_one_text_does_not_load_all_that_is_cached(tmp_path):
    random = np.random.default_rng(0)
    cache, keys = module._VectorCache(tmp_path), [random.bytes(30) + ending for ending in (b"  ", b"\0\0") * 10_000]
    vectors = random.normal(size=(len(keys), 64)).astype(np.float32)
    cache.write(dict(zip(keys, vectors)))
    tracemalloc.start()
    (found,) = cache.read([keys[7], b"\0" * 32, b"\xff" * 32])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert list(found) == [keys[7]] and np.array_equal(found[keys[7]], vectors[7])
    assert peak < vectors.nbytes / 2
    found = {key: vector for part in cache.read(keys[::3]) for key, vector in part.items()}
    assert len(found) == len(keys[::3]) and all(np.array_equal(found[keys[row]], vectors[row]) for row in (0, 3, 6000))


def test_unwritable_cache_only_warns(sentence_t5, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(UserWarning, match="can't be cached"):
        assert make(sentence_t5, tmp_path / "file").encode(TEXTS).shape == (5, 24)


class Constant:
    """A model that gives every text a vector of one number, NaN where the text says so."""

    def encode(self, texts, **settings):
        return np.array([[float("nan") if text == "bad" else 0.5] * 64 for text in texts], np.float32)


def constant(cache):
    encoder = SentenceEncoder("nobody/constant", cache_dir=cache, progress=False)
    encoder._model = Constant()
    return encoder


def test_vectors_that_are_not_finite_are_refused_and_not_kept(tmp_path):
    with pytest.raises(DataError, match=r"vectors of nobody/constant: 1 of 3 rows hold NaN or infinity \(rows 1\)"):
        constant(tmp_path).encode(["a", "bad", "b"])
    (file,) = tmp_path.rglob("*.safetensors")
    stored = load_file(file)
    assert stored["vectors"].shape == (2, 64) and np.isfinite(stored["vectors"]).all()
    with pytest.raises(DataError, match="1 of 1 rows"):
        constant(tmp_path).encode(["bad"])
    assert list(tmp_path.rglob("*.safetensors")) == [file]


FAILURES = {
    "full": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "read-only": OSError(errno.EROFS, "Read-only file system"),
    "denied": PermissionError(errno.EACCES, "Permission denied"),
    "other": SafetensorError("Error while serializing: no reason"),
}


SAID = {"full": "No space", "read-only": "Read-only file system", "denied": "Permission denied", "other": "no reason"}


@pytest.mark.parametrize("kind", FAILURES)
def test_embeddings_are_used_though_they_can_not_be_kept(tmp_path, monkeypatch, kind):
    def fail(*args):
        raise FAILURES[kind]

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.warns(UserWarning, match=f"can't be cached.*{SAID[kind]}") as warned:
        assert (constant(tmp_path).encode(["a", "b"]) == 0.5).all()
    if kind == "full":
        assert "No space left on device, 576 bytes are wanted, " in str(warned[0].message)  # 2 * (32 + 64 * 4)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not [path for path in tmp_path.rglob("*") if path.name != "nobody-constant" and path.is_file()]


def test_a_limit_of_the_system_on_the_cache(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.warns(UserWarning, match="can't be cached.*File too large"):
            vectors = constant(tmp_path).encode(["a"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert vectors.shape == (1, 64)


def test_encoders_that_are_clearly_paths_are_not_asked_for_on_the_hub(tmp_path):
    (tmp_path / "models" / "gtr").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no sentence encoder .*gtt \(is .*models/gtr meant\?\)"):
        SentenceEncoder(tmp_path / "models" / "gtt", cache_dir=tmp_path / "cache").encode(["a"])


def test_sentence_encoder_saves_its_name_only(sentence_t5, tmp_path):
    encoder = make(sentence_t5, tmp_path / "cache")
    encoder.save_pretrained(tmp_path / "saved")
    assert [file.name for file in (tmp_path / "saved").iterdir()] == ["encoder.json"]
    loaded = load_encoder(tmp_path / "saved", device="cpu", cache_dir=tmp_path / "cache")
    assert isinstance(loaded, SentenceEncoder) and loaded.name == str(sentence_t5)
    np.testing.assert_array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))


def hub_cache(folder, commit, model):
    """A model in the layout of the Hub's cache, as if ``main`` were at that commit."""
    place = folder / "models--me--enc"
    shutil.copytree(model, place / "snapshots" / commit)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / "main").write_text(commit)


def test_vectors_of_two_commits_are_not_mixed(sentence_t5, tmp_path, counted, monkeypatch):
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub_cache(tmp_path / "hub", "a" * 40, sentence_t5)
    old = make("me/enc", tmp_path / "cache")
    before = old.encode(TEXTS[:2])
    shutil.copytree(sentence_t5, tmp_path / "newer")
    (file,) = (tmp_path / "newer").glob("*Dense/model.safetensors")
    save_file({name: -weights for name, weights in load_file(file).items()}, file)
    hub_cache(tmp_path / "hub", "b" * 40, tmp_path / "newer")

    counted.clear()
    after = make("me/enc", tmp_path / "cache").encode(TEXTS)  # main has moved: nothing of the old commit is read
    assert sorted(counted) == sorted(TEXTS)
    np.testing.assert_allclose(after[:2], -before, atol=1e-6)
    np.testing.assert_allclose(old.encode(TEXTS), -after, atol=1e-6)  # one that has begun with the old one stays there
    for revision in ("main", "b" * 40):  # the same weights by other names
        counted.clear()
        make("me/enc", tmp_path / "cache", revision=revision).encode(TEXTS)
        assert counted == []
    np.testing.assert_array_equal(make("me/enc", tmp_path / "cache", revision="a" * 40).encode(TEXTS[:2]), before)
    old.save_pretrained(tmp_path / "saved")  # it stays there once it is loaded, too
    loaded = load_encoder(tmp_path / "saved", device="cpu", cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(loaded.encode(TEXTS[:2]), before)


def test_a_model_that_is_downloaded_has_a_commit(sentence_t5, tmp_path, counted, monkeypatch):
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    load = SentenceEncoder._load

    def downloading(self):
        if not (tmp_path / "hub").exists():
            hub_cache(tmp_path / "hub", "a" * 40, sentence_t5)
        return load(self)

    monkeypatch.setattr(SentenceEncoder, "_load", downloading)
    first = make("me/enc", tmp_path / "cache").encode(TEXTS)
    counted.clear()
    np.testing.assert_array_equal(make("me/enc", tmp_path / "cache").encode(TEXTS), first)
    assert counted == [] and len(list((tmp_path / "cache").iterdir())) == 1


def test_an_encoder_in_the_home_directory(sentence_t5, tmp_path, counted, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(sentence_t5, tmp_path / "enc")
    encoder = make("~/enc", tmp_path / "cache")
    np.testing.assert_array_equal(encoder.encode(TEXTS), make(tmp_path / "enc", tmp_path / "cache").encode(TEXTS))
    assert len(counted) == len(TEXTS) and encoder.name == str(tmp_path / "enc")  # one folder, one cache
    (tmp_path / "enc" / "README.md").write_text("another")
    make("~/enc", tmp_path / "cache").encode(TEXTS)
    assert len(counted) == 2 * len(TEXTS)

    encoder.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "encoder.json").read_text())
    (tmp_path / "saved" / "encoder.json").write_text(json.dumps(saved | {"name": "~/enc"}))  # by an earlier version
    assert load_encoder(tmp_path / "saved", device="cpu", cache_dir=tmp_path / "cache").encode(TEXTS).shape == (5, 24)
    shutil.copytree(tmp_path / "saved", tmp_path / "copied")
    with pytest.raises(DataError, match="a path that was not saved here"):
        load_encoder(tmp_path / "copied").encode(TEXTS)


def test_sentence_encoder_errors(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no texts"):
        make(tmp_path, tmp_path).encode([])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="can't load the sentence encoder"):
        make(tmp_path / "nothing", tmp_path / "cache").encode(["a"])


# LSA


def test_lsa_relates_texts_by_their_words():
    encoder = LSAEncoder.fit(TEXTS, dim=4)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32 and encoder.name == f"lsa-{encoder.dim}" and vectors.shape == (5, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    query = encoder.encode(["soap with rose"])[0]
    assert int(np.argmax(vectors @ query)) == 0
    np.testing.assert_allclose(encoder.components @ encoder.components.T, np.eye(encoder.dim), atol=1e-4)


def test_lsa_dim_shrinks_and_unknown_words_are_zero():
    encoder = LSAEncoder.fit(TEXTS, dim=256)
    assert encoder.dim == 4
    assert not encoder.encode(["zzz qqq"]).any()
    assert LSAEncoder.fit(["one"], dim=8).encode(["one"]).tolist() == [[1.0]]
    with pytest.raises(DataError, match="can't be fitted"):
        LSAEncoder.fit(["", "!"], dim=2)


def test_lsa_is_deterministic_reads_iterators_and_any_chunking(monkeypatch):
    vectors = LSAEncoder.fit(TEXTS, dim=3).encode(TEXTS)
    encoder = LSAEncoder.fit(iter(TEXTS), dim=3)
    monkeypatch.setattr("tiger.embeddings.lsa_encoder.CHUNK", 2)
    np.testing.assert_array_equal(encoder.encode(text for text in TEXTS), vectors)


def test_lsa_saved_and_loaded_is_bit_identical(tmp_path):
    encoder = LSAEncoder.fit([*TEXTS, "Crème brûlée 1 oz"], dim=3)
    encoder.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["encoder.json", "encoder.safetensors"]
    loaded = load_encoder(tmp_path)
    assert isinstance(loaded, LSAEncoder)
    new = [*TEXTS, "creme soap", "a new green spade", ""]
    np.testing.assert_array_equal(loaded.encode(new), encoder.encode(new))


def test_a_catalog_without_texts_has_an_encoder(tmp_path):
    LSAEncoder.without_words().save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.encode(["a word", ""]).tolist() == [[0.0], [0.0]] and loaded.dim == 1
    assert item_texts(pa.table({"item_id": ["a", "b"]}), required=False) == ["", ""]


def test_terms_that_are_learned_can_be_read_again(tmp_path):
    texts = [*TEXTS, f"red {'x' * 20_000} rose", f"{'y' * 1000} {'z' * 1000}"]
    encoder = LSAEncoder.fit(texts, dim=3)
    encoder.save_pretrained(tmp_path)
    np.testing.assert_array_equal(load_encoder(tmp_path).encode(texts), encoder.encode(texts))
    assert max(map(len, encoder.vocabulary)) == 2001


def test_load_encoder_errors(tmp_path):
    with pytest.raises(DataError, match="encoder.json is missing"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.json").write_text(json.dumps({"kind": "oracle"}))
    with pytest.raises(DataError, match="unknown kind 'oracle'"):
        load_encoder(tmp_path)


def test_lsa_of_names_without_common_words():
    """No word is in two of these texts, but for one that is in all: in a large set neither counts at first."""
    texts = [f"Item {row:04d}x" for row in range(1200)]
    vectors = LSAEncoder.fit(texts, 8).encode(texts)
    assert vectors.shape == (1200, 8) and np.isfinite(vectors).all() and vectors.any()
