import json
import os
import shutil
import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import T5ForConditionalGeneration

from tests.conftest import make_model
from tiger.cli.main import main
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.config import item_vocabulary
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils import hub
from tiger.utils.errors import DataError

WORDS = ("tent", "lamp", "stove", "rope", "boots", "map")


@pytest.fixture(scope="module")
def fitted():
    random = np.random.default_rng(0)
    texts = [f"{WORDS[n % 6]} {' '.join(random.choice(WORDS, 3))} number {n}" for n in range(40)]
    encoder = LSAEncoder.fit(texts, dim=8)
    ids = [f"i{n}" for n in range(40)]
    tokenizer = SemanticIdTokenizer.fit(
        encoder.encode(texts), ids, num_codebooks=2, codebook_size=8, quantizer="residual-kmeans", progress=False
    )
    items = pa.table({"item_id": ids, "title": texts})
    return tokenizer, encoder, items


@pytest.fixture(params=["codes", "prefixes", "hashed_prefixes"])
def recommender(fitted, tmp_path, request):
    tokenizer, encoder, items = fitted
    tokenizer.save_pretrained(tmp_path / "copy")
    own = SemanticIdTokenizer.from_pretrained(tmp_path / "copy").with_tokens(request.param)
    return TigerRecommender(make_model(own), own, encoder, items, max_history=5)


def test_recommends_items_by_their_own_ids(recommender):
    items, scores = recommender.recommend([["i1", "i2", "i3"], []], k=5, num_beams=40)
    assert [len(answer) for answer in items] == [5, 5] and scores.shape == (2, 5)
    assert not {"i1", "i2", "i3"} & set(items[0])
    kept, _ = recommender.recommend([["i1", "i2", "i3"]], k=40, num_beams=40, exclude_history=False)
    assert sorted(kept[0]) == sorted(recommender.tokenizer.item_ids)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert recommender.recommend([], k=5)[0] == []


def test_reads_only_the_end_of_a_long_history(recommender):
    history = [f"i{n}" for n in range(20)]
    long, _ = recommender.recommend([history], exclude_history=False)
    short, _ = recommender.recommend([history[-5:]], exclude_history=False)
    assert long == short


def test_unknown_items_are_named_and_left_out(recommender):
    with pytest.warns(UserWarning, match="left out of the histories: 'nobody'$"):
        items, _ = recommender.recommend([["i1", "nobody", "i2"]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recommender.recommend([["i1", "i2"]])[0] == items


def test_wrong_calls(recommender):
    with pytest.raises(TypeError, match="list of histories"):
        recommender.recommend(["i1", "i2"])
    with pytest.raises(TypeError, match="list of histories"):
        recommender.recommend("i1")
    with pytest.raises(DataError, match="num_beams"):
        recommender.recommend([["i1"]], k=10, num_beams=5)
    for k, why in ((0, "at least 1"), (-1, "at least 1"), (10**9, "at most"), (2.5, "whole"), (True, "whole")):
        with pytest.raises(DataError, match=f"k must be .*{why}"):
            recommender.recommend([["i1"]], k=k)
    for wrong in ({"num_beams": 0}, {"temperature": -1}, {"unseen_share": -0.1}, {"unseen_share": float("nan")}):
        with pytest.raises(DataError, match=f"{next(iter(wrong))} must be"):
            recommender.recommend([["i1"]], **wrong)
    with pytest.raises(DataError, match="max_history must be at least 1"):
        recommender.max_history = 0


def test_histories_may_be_iterators(recommender):
    expected, scores = recommender.recommend([["i1", "i2"], ["i3"]], k=5)
    found, again = recommender.recommend((iter(history) for history in (["i1", "i2"], ["i3"])), k=5)
    assert found == expected and np.array_equal(scores, again)
    with pytest.warns(UserWarning, match="'nobody'$"):
        found, _ = recommender.recommend([iter(["i1", "nobody", "i2"])], k=5)
    assert found[0] == expected[0]


def test_mistyped_directories_are_named_without_asking_the_hub(recommender, tmp_path, monkeypatch):
    recommender.save_pretrained(tmp_path / "runs" / "demo" / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", lambda *a, **b: pytest.fail("the Hub was asked"))
    for name in ("runs/dmo/model", "./runs/Demo/model", tmp_path / "runs" / "demo" / "modle"):
        with pytest.raises(DataError, match=r"is not a directory \(is .*runs/demo/model meant\?\)"):
            TigerRecommender.from_pretrained(name)
    for name in ("nowhere", "../nowhere", "/no/where", "~/nowhere", "a/b/c"):
        with pytest.raises(DataError, match="is not a directory"):
            TigerRecommender.from_pretrained(name)
    assert TigerRecommender.from_pretrained("runs/demo").tokenizer.item_ids == recommender.tokenizer.item_ids
    (tmp_path / "runs" / "demo").rename(tmp_path / "demo")
    assert TigerRecommender.from_pretrained("demo").tokenizer.item_ids == recommender.tokenizer.item_ids
    (tmp_path / "demo" / "model").rename(tmp_path / "demo" / "other")
    with pytest.raises(DataError, match=r"no tiger.json \(is demo/other meant\?\)"):
        TigerRecommender.from_pretrained("demo")
    (tmp_path / "demo").rename(tmp_path / "runs" / "demo")

    def absent(*args, **options):
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr(hub, "snapshot_download", absent)
    with pytest.raises(DataError, match=r"runs/dmo is not a directory here \(is runs/demo meant\?\)"):
        TigerRecommender.from_pretrained("runs/dmo")


def test_sampling_is_repeatable(recommender):
    first = recommender.recommend([["i1"]], k=5, temperature=2.0, seed=1)
    again = recommender.recommend([["i1"]], k=5, temperature=2.0, seed=1)
    other = recommender.recommend([["i1"]], k=5, temperature=2.0, seed=2)
    assert first[0] == again[0] != other[0]


def test_save_and_load(recommender, tmp_path):
    expected = recommender.recommend([["i1", "i2"]])
    recommender.save_pretrained(tmp_path / "model")
    loaded = TigerRecommender.from_pretrained(tmp_path / "model")
    items, scores = loaded.recommend([["i1", "i2"]])
    assert items == expected[0]
    np.testing.assert_allclose(scores, expected[1], atol=1e-4)
    assert loaded.max_history == 5 and loaded.titles(["i3"])[0].startswith("rope")
    T5ForConditionalGeneration.from_pretrained(tmp_path / "model")
    loaded.save_pretrained(tmp_path / "model")  # over itself
    assert TigerRecommender.from_pretrained(tmp_path / "model").recommend([["i1", "i2"]])[0] == items
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_new_items_are_recommendable_at_once(recommender, tmp_path):
    before = recommender.tokenizer.semantic_ids.copy()
    new = [f"new{n}" for n in range(30)]
    recommender.add_items(new, ["tent rope map"] * 30)
    assert np.array_equal(recommender.tokenizer.semantic_ids[:40], before)
    # Thirty items with one text overflow the eight collision tokens: the vocabulary grows, and with it the model.
    tokens = item_vocabulary(recommender.model)
    assert tokens == recommender.tokenizer.vocab_size > 1 + 3 * 8
    items, scores = recommender.recommend([["i1", "new3"]], k=70, num_beams=70)
    assert set(new) - set(items[0]) == {"new3"}
    recommender.add_items(new, ["another text"] * 30)
    assert len(recommender.tokenizer) == 70
    recommender.save_pretrained(tmp_path / "model")
    loaded = TigerRecommender.from_pretrained(tmp_path / "model")
    again, same_scores = loaded.recommend([["i1", "new3"]], k=70, num_beams=70)
    assert sorted(again[0]) == sorted(items[0])
    np.testing.assert_allclose(same_scores, scores, atol=1e-4)
    loaded.remove_items(["new3", "i5"])
    items, _ = loaded.recommend([["i1"]], k=70, num_beams=70)
    assert len(items[0]) == 67 and not {"new3", "i5", "i1"} & set(items[0])
    assert loaded.titles(["i6"]) == recommender.titles(["i6"])


def test_item_columns_in_any_order(recommender):
    recommender.items = recommender.items.select(["title", "item_id"])
    recommender.add_items(["new"], ["tent map"])
    assert recommender.items["item_id"].to_pylist()[-1] == "new" and recommender.titles(["new"]) == ["new"]


def test_a_full_disk_leaves_the_old_model_whole(recommender, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    recommender.save_pretrained(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tiger.recommender.checkpoint.pq.write_table", no_space)
    with pytest.raises(OSError, match="No space left"):
        recommender.save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert os.listdir(tmp_path).count("model") == 1 and len(os.listdir(tmp_path)) == 2  # and the tokenizer's copy


def test_half_written_or_foreign_directories_are_named(recommender, tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(DataError, match="not a directory"):
        TigerRecommender.from_pretrained(folder)
    recommender.save_pretrained(folder)

    def broken(name, change):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        change(copy)
        with pytest.raises(DataError) as caught:
            TigerRecommender.from_pretrained(copy)
        return str(caught.value)

    assert "half-written" in broken("a", lambda copy: (copy / "tiger.json").unlink())
    manifest = json.loads((folder / "tiger.json").read_text())
    other = json.dumps(manifest | {"format": 99})
    assert "format 99" in broken("b", lambda copy: (copy / "tiger.json").write_text(other))
    for number, damaged in enumerate(({"parts": 5}, {"parts": [1]}, {"files": [["x"]]})):
        content = json.dumps(manifest | damaged)
        told = broken(f"damaged{number}", lambda copy, content=content: (copy / "tiger.json").write_text(content))
        assert "its lists of files are none" in told
    other = json.dumps(manifest | {"semantic_ids": "f00"})
    assert "different models" in broken("c", lambda copy: (copy / "tiger.json").write_text(other))
    assert "damaged" in broken("d", lambda copy: (copy / "tiger.json").write_text("{"))
    assert "lacks semantic_ids.safetensors" in broken("e", lambda copy: (copy / "semantic_ids.safetensors").unlink())
    weights = (folder / "model.safetensors").read_bytes()
    cut = broken("f", lambda copy: (copy / "model.safetensors").write_bytes(weights[:999]))
    assert ": model.safetensors is not as saved" in cut
    other = weights[:-1] + bytes([weights[-1] ^ 1])
    assert "model.safetensors is not" in broken("f1", lambda copy: (copy / "model.safetensors").write_bytes(other))
    assert "lacks model.safetensors" in broken("g", lambda copy: (copy / "model.safetensors").unlink())
    assert "lacks encoder" in broken("h", lambda copy: shutil.rmtree(copy / "encoder"))
    # Directories from before digests were kept load, and damage to them is found by who reads it.
    del manifest["files"]
    (folder / "tiger.json").write_text(json.dumps(manifest))
    assert TigerRecommender.from_pretrained(folder).max_history == 5
    parts = ("encoder/encoder.json", "quantizer/model.safetensors", "items.parquet", "model.safetensors")
    for index, part in enumerate(parts):
        assert "is damaged" in broken(f"i{index}", lambda copy: (copy / part).write_bytes(b"{"))

    def mixed(copy):
        config = json.loads((copy / "config.json").read_text())
        config["tiger_config"]["semantic_ids"] = "f00"
        (copy / "config.json").write_text(json.dumps(config))

    assert "parts come from different models" in broken("j", mixed)


def test_parts_that_do_not_fit(fitted):
    tokenizer, encoder, items = fitted
    with pytest.raises(ValueError, match="tokenizer's order"):
        TigerRecommender(make_model(tokenizer), tokenizer, encoder, items.slice(1))
    with pytest.raises(ValueError, match="without a text encoder"):
        TigerRecommender(make_model(tokenizer), tokenizer).add_items(["x"], ["y"])


def test_command_line(recommender, tmp_path, capsys):
    recommender.save_pretrained(tmp_path / "model")
    main(["recommend", str(tmp_path / "model"), "--history", "i1", "i2", "-k", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == recommender.recommend([["i1", "i2"]], k=3)[0][0]
    main(["recommend", str(tmp_path / "model"), "--history", "i1", "nobody", "-k", "3", "--json"])
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)) == 3 and "'nobody'" in captured.err
    with pytest.raises(SystemExit) as stop:
        main(["recommend", str(tmp_path / "nowhere")])
    assert stop.value.code == 2 and "error: " in capsys.readouterr().err


def test_decodes_in_bfloat16(recommender):
    exact, _ = recommender.recommend([["i1", "i2", "i4"]], k=10, num_beams=40)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = recommender.recommend([["i1", "i2", "i4"]], k=10, num_beams=40)
    assert len(set(exact[0]) & set(rounded[0])) >= 8
