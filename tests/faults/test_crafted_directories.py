"""Model directories whose digests fit and whose content doesn't: one line each, and nothing of it is loaded."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.faults.crafting import sign
from tests.faults.subjects import FIXTURE
from tiger.embeddings.auto import load_encoder
from tiger.embeddings.sentence_encoder import SentenceEncoder
from tiger.recommender import saved_items
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError


@pytest.fixture
def crafted(tmp_path):
    """Copies a fixture; ``sign`` makes its digests fit."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(FIXTURE / name, tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"))

    return copy


def refused(folder: Path) -> str:
    sign(folder)
    with pytest.raises(DataError) as caught:
        TigerRecommender.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def retensor(file: Path, change) -> None:
    with safe_open(file, "np") as opened:
        metadata = opened.metadata()
    save_file({name: np.ascontiguousarray(one) for name, one in change(load_file(file)).items()}, file, metadata)


def rejson(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


TENSORS = {
    "children out of range": ("codes", "trie.safetensors", "children.0", lambda a: a * 1000),
    "children below 0": ("codes", "trie.safetensors", "children.1", lambda a: a - 1),
    "tokens of 64 bits": ("codes", "trie.safetensors", "tokens.0", lambda a: a.astype(np.int64)),
    "tokens of another model": ("codes", "trie.safetensors", "tokens.3", lambda a: a + 1),
    "rows twice": ("codes", "trie.safetensors", "rows", lambda a: np.zeros_like(a)),
    "other leaves": ("codes", "trie.safetensors", "leaves", lambda a: a[::-1]),
    "a code out of range": ("codes", "semantic_ids.safetensors", "semantic_ids", lambda a: a + 8),
    "an ID twice": ("codes", "semantic_ids.safetensors", "semantic_ids", lambda a: np.tile(a[:1], (len(a), 1))),
    "half an item id": ("codes", "semantic_ids.safetensors", "item_id_bytes", lambda a: a | 0x80),
    "ids that end before they begin": ("codes", "semantic_ids.safetensors", "item_id_ends", lambda a: a[::-1]),
    "a prefix without token": ("two_stage", "semantic_ids.safetensors", "prefix_tokens", lambda a: a * 0),
    "one token for two": ("two_stage", "semantic_ids.safetensors", "prefix_tokens", lambda a: np.minimum(a, 5)),
    "codebooks of another size": ("codes", "quantizer/model.safetensors", "codebooks", lambda a: a[:, :4]),
    "a codebook of NaN": ("codes", "quantizer/model.safetensors", "codebooks", lambda a: a * np.nan),
    "weights of NaN": ("codes", "model.safetensors", "shared.weight", lambda a: a * np.nan),
    "endless weights": ("codes", "model.safetensors", "shared.weight", lambda a: a * 1e30),
    "too few weights": ("codes", "model.safetensors", "shared.weight", lambda a: a[:5]),
    "weights of booleans": ("codes", "model.safetensors", "shared.weight", lambda a: a > 0),
    "terms of another size": ("codes", "encoder/encoder.safetensors", "idf", lambda a: a[:7]),
    "vectors without end": ("codes", "encoder/encoder.safetensors", "components", lambda a: a / 0),
    "vectors of other items": ("click", "ranker/dense.safetensors", "dense", lambda a: a[:3]),
    "a ranker of NaN": ("click", "ranker/model.safetensors", "table.weight", lambda a: a * np.nan),
    "pairs of no items": ("two_stage", "ranker/counts.safetensors", "keys", lambda a: a + 1600),
    "pairs out of order": ("two_stage", "ranker/counts.safetensors", "keys", lambda a: a[::-1]),
    "boolean events": ("two_stage", "ranker/counts.safetensors", "events", lambda a: a > 0),
    "events of no items": ("two_stage", "ranker/counts.safetensors", "events", lambda a: a * 1000),
    "counts of NaN": ("two_stage", "ranker/counts.safetensors", "values", lambda a: a * np.nan),
    "flat counts": ("two_stage", "ranker/counts.safetensors", "company", lambda a: a.ravel()),
    "vectors of booleans": ("two_stage", "ranker/vectors.safetensors", "vectors", lambda a: a > 0),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("what", TENSORS)
def test_tensors_that_are_none_of_ours(crafted, what):
    name, file, tensor, change = TENSORS[what]
    folder = crafted(name)
    retensor(folder / file, lambda tensors: tensors | {tensor: change(tensors[tensor])})
    message = refused(folder)
    assert file in message or "the trie was built from other semantic IDs" in message


FIELDS = {
    "layers without end": ("codes", "config.json", {"num_layers": 10**12}),
    "layers as text": ("codes", "config.json", {"num_layers": "4"}),
    "another width": ("codes", "config.json", {"d_ff": 64}),
    "another head": ("codes", "config.json", {"num_heads": 3}),
    "no activation": ("codes", "config.json", {"feed_forward_proj": "import-os"}),
    "another family": ("codes", "config.json", {"model_type": "bert"}),
    "codebooks without end": ("codes", "quantizer/config.json", {"codebook_size": 10**12}),
    "layers of no width": ("codes", "quantizer/config.json", {"hidden_sizes": [0]}),
    "no layers": ("codes", "quantizer/config.json", {"hidden_sizes": None}),
    "terms as numbers": ("codes", "encoder/encoder.json", {"vocabulary": [1, 2]}),
    "an unknown encoder": ("codes", "encoder/encoder.json", {"kind": ["lsa"]}),
    "tables without end": ("click", "ranker/config.json", {"budget": 10**12}),
    "features of another table": ("click", "ranker/item_features.json", {"budget": 51}),
    "features of nothing": ("click", "ranker/item_features.json", {"kind": None}),
    "columns that nobody knows": ("two_stage", "ranker/two_stage.json", {"columns": ["log: luck"]}),
    "columns as one text": ("two_stage", "ranker/two_stage.json", {"columns": "log: next, last"}),
    "proposals without end": ("two_stage", "ranker/two_stage.json", {"num_proposed": 10**12}),
    "trees that are none": ("two_stage", "ranker/trees.json", {"lightgbm": ["tree\n"]}),
    "histories without end": ("codes", "tiger.json", {"max_history": 10**12}),
    "a part that is the folder": ("codes", "tiger.json", {"parts": ["."]}),
    "a template of numbers": ("codes", "tiger.json", {"training": {"template": 7}}),
    "a template of other columns": ("codes", "tiger.json", {"training": {"template": "title,nothing"}}),
}


@pytest.mark.parametrize("what", FIELDS)
def test_settings_that_are_none_of_ours(crafted, what):
    name, file, changes = FIELDS[what]
    folder = crafted(name)
    rejson(folder / file, **changes)
    began = time.process_time()
    refused(folder)
    assert time.process_time() - began < 10


def test_widths_of_a_trie_are_counted_not_believed(crafted):
    folder = crafted("codes")
    arrays = load_file(folder / "trie.safetensors")
    save_file(arrays, folder / "trie.safetensors", {"trie": json.dumps({"widths": [10**12] * 4})})
    sign(folder)
    assert TigerRecommender.from_pretrained(folder).trie.widths == [7, 6, 2, 4]


def test_checks_of_a_trie_are_cheap():
    table = np.random.default_rng(0).integers(1, 200, (200_000, 4))
    table[:, 3] += np.arange(200_000) * 200
    trie = SemanticIdTrie.build(table)
    began = time.process_time()
    trie.check_table(table)
    assert time.process_time() - began < 1
    with pytest.raises(DataError, match="other semantic IDs"):
        trie.check_table(table[::-1])


TABLES = {
    "struct titles": lambda items: items.set_column(1, "title", pa.array([{"a": 1}] * len(items))),
    "binary titles": lambda items: items.set_column(1, "title", pa.array([b"\xff"] * len(items))),
    "numbers for ids": lambda items: items.set_column(0, "item_id", pa.array(range(len(items)))),
    "fewer rows": lambda items: items.slice(1),
    "other order": lambda items: items.take(np.arange(len(items))[::-1]),
    "a column twice": lambda items: items.append_column("title", items["title"]),
    "no ids": lambda items: items.drop_columns("item_id"),
}


@pytest.mark.parametrize("what", TABLES)
def test_item_tables_that_are_none_of_ours(crafted, what):
    folder = crafted("codes")
    items = pq.read_table(folder / "items.parquet")
    assert items.column_names[:2] == ["item_id", "title"]
    pq.write_table(TABLES[what](items), folder / "items.parquet")
    assert "item" in refused(folder)


def test_a_small_file_of_many_rows_is_not_read(crafted):
    folder = crafted("codes")
    rows = 2_000_000
    ids = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array(["x"]))
    pq.write_table(pa.table({"item_id": ids}), folder / "items.parquet", compression="zstd")
    assert "2,000,000 rows" in refused(folder)


REPEATED = {
    "a text": lambda text, count: pa.array([text] * count),
    "a dictionary": lambda text, count: pa.array([text] * count).dictionary_encode(),
    "a large text": lambda text, count: pa.array([text] * count, pa.large_string()),
    "a view": lambda text, count: pa.array([text] * count, pa.string_view()),
    "bytes": lambda text, count: pa.array([text.encode()] * count),
    "bytes of one length": lambda text, count: pa.array([text.encode()] * count, pa.binary(len(text))),
    "a list": lambda text, count: pa.array([[text, text]] * (count // 2)).take(pa.array(np.arange(count) % 2)),
    "a list of two": lambda text, count: pa.array([[text, text]] * count, pa.list_(pa.string(), 2)),
    "a field": lambda text, count: pa.array([{"a": 1, "b.c": text}] * count),
    "a map": lambda text, count: pa.array([[(text, text)]] * count, pa.map_(pa.string(), pa.string())),
}


@pytest.mark.parametrize("kind", REPEATED)
def test_a_text_that_is_stored_once_and_unfolds(tmp_path, monkeypatch, kind):
    """40 rows of a text of 2,000 bytes, within small limits, and half a limit too many."""
    count, file = 40, tmp_path / "items.parquet"
    items = pa.table({"item_id": [f"i{row}" for row in range(count)], "a.b": REPEATED[kind]("x" * 2000, count)})
    pq.write_table(items, file, compression="zstd", row_group_size=20)
    monkeypatch.setattr(saved_items, "MAX_UNFOLDING", 0)
    monkeypatch.setattr(saved_items, "SMALL", 400_000)
    assert saved_items.read_items(file, count).num_rows == count
    monkeypatch.setattr(saved_items, "SMALL", 60_000)
    with pytest.raises(DataError, match=r"items.parquet unfolds to (80|160),\d\d\d bytes of text, far more"):
        saved_items.read_items(file, count)


def test_texts_that_repeat_those_before_them_are_refused(tmp_path):
    items, file = pa.table({"item_id": ["a", "b"], "title": ["soap", "soap"]}), tmp_path / "items.parquet"
    pq.write_table(items, file, use_dictionary=False, column_encoding={"title": "DELTA_BYTE_ARRAY"})
    with pytest.raises(DataError, match="'title' is encoded as DELTA_BYTE_ARRAY. Save it again"):
        saved_items.read_items(file, 2)


@pytest.mark.parametrize("name", ["items.parquet", "config.json", "encoder/encoder.json", "trie.safetensors"])
def test_pipes_devices_and_links_are_not_opened(crafted, name, tmp_path):
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(tmp_path / "x")):
        folder = crafted("codes")
        (tmp_path / "x").write_bytes((folder / name).read_bytes())
        (folder / name).unlink()
        make(folder / name)
        manifest = json.loads((folder / "tiger.json").read_text())
        for files in (manifest["files"], {}):  # listed or not
            (folder / "tiger.json").write_text(json.dumps(manifest | {"files": files}))
            with pytest.raises(DataError, match="no regular file|leads out of"):
                TigerRecommender.from_pretrained(folder)


def test_a_snapshot_of_the_hubs_cache_is_all_links(tmp_path):
    snapshot, blobs = tmp_path / "models--me--x" / "snapshots" / "0f", tmp_path / "models--me--x" / "blobs"
    blobs.mkdir(parents=True)
    for file in [path for path in (FIXTURE / "codes").rglob("*") if path.is_file()]:
        name = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blobs / name)
        link = snapshot / file.relative_to(FIXTURE / "codes")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / name, link.parent))
    assert len(TigerRecommender.from_pretrained(snapshot).tokenizer) == 40


def sentence_encoder(folder: Path, name: str, **more) -> None:
    (folder / "encoder.json").write_text(json.dumps({"kind": "sentence-transformers", "name": name} | more))


def test_an_encoder_that_came_with_the_model_is_refused(crafted, monkeypatch):
    folder = crafted("codes")
    (folder / "encoder" / "st").mkdir()
    (folder / "encoder" / "st" / "modules.json").write_text("[]")
    monkeypatch.chdir(folder.parent)
    for name in (str(folder / "encoder" / "st"), f"{folder.name}/encoder/st", f"./{folder.name}"):
        sentence_encoder(folder / "encoder", name, saved_in=str(folder / "encoder"))
        assert "came with it" in refused(folder)


@pytest.mark.parametrize("name", ["/", "/dev/zero", "~/model", "../model", "link", "pipe"])
def test_paths_of_this_machine_are_not_followed_for_a_stranger(tmp_path, monkeypatch, name):
    (tmp_path / "saved").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    sentence_encoder(tmp_path / "saved", name)
    encoder = load_encoder(tmp_path / "saved")  # the model still recommends
    for use in (encoder.load, lambda: encoder.encode(["x"])):
        with pytest.raises(DataError, match="give it yourself"):
            use()


def test_a_folder_of_ones_own_is_followed_where_it_was_saved(crafted, tmp_path):
    (tmp_path / "mine").mkdir()
    tiger = TigerRecommender.from_pretrained(FIXTURE / "codes")
    tiger.encoder = SentenceEncoder(tmp_path / "mine")
    tiger.save_pretrained(tmp_path / "model")
    again = TigerRecommender.from_pretrained(tmp_path / "model")
    assert again.encoder._refused is None
    shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")
    assert TigerRecommender.from_pretrained(tmp_path / "elsewhere").encoder._refused
