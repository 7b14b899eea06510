import copy
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import make_model, make_tokenizer, target_logits
from tests.rankers.click.test_ranker import make_ranker
from tests.recommender.test_recommender import fitted  # noqa: F401
from tiger.data.readers import item_table, read_items
from tiger.data.sequences import Sequences
from tiger.embeddings.item_text import MAX_TEXT
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.beam_search import beam_search
from tiger.retriever.search import merge_with_quota
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError


@pytest.fixture(params=["codes", "prefixes", "hashed_prefixes"])
def recommender(fitted, tmp_path, request):  # noqa: F811
    tokenizer, encoder, items = fitted
    tokenizer.save_pretrained(tmp_path / "copy")
    own = SemanticIdTokenizer.from_pretrained(tmp_path / "copy").with_tokens(request.param)
    ranker = make_ranker(own, encoder.encode(items["title"].to_pylist()), "unigram+dense")
    prices = pa.array(np.arange(40) / 2)
    items = items.append_column("price", prices)
    return TigerRecommender(make_model(own), own, encoder, items, max_history=5, ranker=ranker)


def state(tiger):
    """All that a change could harm."""
    tokenizer = tiger.tokenizer
    return {
        "ids": list(tokenizer.item_ids),
        "semantic_ids": tokenizer.semantic_ids.tolist(),
        "tokens": tokenizer.encode(np.arange(-1, len(tokenizer))).tolist(),
        "rows": tokenizer.rows(tokenizer.item_ids).tolist(),
        "strangers": tokenizer.rows(["new-1", "new-2", "x"], missing=-1).tolist(),
        "table": tiger.items.to_pylist(),
        "logits": tiger.rank([["i1", "i2"]], [["i0", "i1", "i3"]])[1][0].tolist(),
        "unseen": tiger.unseen.tolist(),
        "vocabulary": tiger.model.config.vocab_size,
        "answers": tiger.recommend([["i1", "i2"], []], k=12, num_beams=40)[0],
        "beams": tiger.recommend([["i1", "i2"], []], k=12, num_beams=40, rank=False)[0],
    }


def test_table_columns_of_new_items(recommender):
    added = recommender.add_items(
        ["new-1", "i3", "new-2"],
        table=[{"title": "Rope lamp", "price": 3}, {"title": "not this one"}, {"title": "Map tent", "colour": "red"}],
    )
    assert added == ["new-1", "new-2"] and recommender.titles(["new-2", "i3"])[0] == "Map tent"
    assert recommender.titles(["i3"])[0].startswith("rope")
    rows = recommender.items.to_pylist()[-2:]
    assert rows == [
        {"item_id": "new-1", "title": "Rope lamp", "price": 3.0},
        {"item_id": "new-2", "title": "Map tent", "price": None},
    ]
    # The texts are those that `item_texts` makes of such rows.
    vectors = recommender.encoder.encode(["Title: Rope lamp; Price: 3", "Title: Map tent"])
    assert recommender.tokenizer.codes[-2:].tolist() == recommender.tokenizer.quantizer.encode(vectors).tolist()
    assert recommender.unseen.tolist() == [False] * 40 + [True] * 2
    recommender.training["template"] = "title"
    recommender.add_items(["new-3"], table=[{"title": "Rope lamp", "price": 3}])
    expected = recommender.tokenizer.quantizer.encode(recommender.encoder.encode(["Title: Rope lamp"]))
    assert recommender.tokenizer.codes[-1].tolist() == expected[0].tolist()
    recommender.add_items(["new-4"], embeddings=vectors[:1])
    assert recommender.tokenizer.codes[-1].tolist() == recommender.tokenizer.codes[40].tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"item_ids": ["x", "x"], "texts": ["tent", "rope"]}, "'x' occurs more than once"),
        ({"item_ids": ["x"], "texts": [" "]}, "'x' has no text"),
        ({"item_ids": ["x"], "texts": [None]}, "'x' has no text"),
        ({"item_ids": ["y", "x"], "texts": ["tent", "tent " * MAX_TEXT]}, "'x' has a text of 500,000 characters"),
        ({"item_ids": ["x"], "texts": ["tent \ud800"]}, "half a character in its text"),
        ({"item_ids": ["x\ud800"], "texts": ["tent"]}, "half a character"),
        ({"item_ids": [""], "texts": ["tent"]}, "an item id is empty"),
        ({"item_ids": [7], "texts": ["tent"]}, "strings, got 7"),
        ({"item_ids": ["x", "y"], "texts": ["tent"]}, "1 texts for 2 items"),
        ({"item_ids": ["x"], "table": [{"title": None}]}, "'x' .* has no text"),
        ({"item_ids": ["x"], "table": [{"title": "Tent", "price": "dear"}]}, "'price' does not fit"),
        ({"item_ids": ["x", "y"], "table": [{"title": "Tent"}, {"title": 7}]}, "'title' holds values"),
        ({"item_ids": ["x"], "embeddings": np.ones((1, 3))}, "3 dimensions"),
        ({"item_ids": ["x"], "embeddings": np.full((1, 8), np.nan)}, "NaN"),
    ],
)
def test_bad_items_are_named_and_nothing_changes(recommender, given, message):
    before = state(recommender)
    with pytest.raises(DataError, match=message):
        recommender.add_items(**given)
    assert state(recommender) == before


def test_wrong_calls(recommender):
    with pytest.raises(TypeError, match="lists"):
        recommender.add_items("new", "tent")
    with pytest.raises(TypeError, match="give the items' texts"):
        recommender.add_items(["new"])


@pytest.mark.parametrize(
    "broken",
    [
        "tiger.embeddings.lsa_encoder.LSAEncoder.encode",
        "tiger.quantizers.residual_kmeans.ResidualKMeans.encode",
        "tiger.semantic_ids.trie.SemanticIdTrie.insert",
        "tiger.rankers.click.ranker.ClickRanker.add_items",
        "tiger.rankers.click.ranker.ClickRanker.update_items",
        "tiger.rankers.click.features.ItemFeatures.rows",
        "tiger.recommender.catalog_updates.with_new_tokens",
    ],
)
def test_a_change_that_fails_half_way_changes_nothing(recommender, monkeypatch, broken):
    recommender.add_items(["new-0"], ["lamp map"])
    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        raise MemoryError

    monkeypatch.setattr(broken, fail)
    for change in (recommender.add_items, recommender.update_items):
        ids = [f"new-{n}" for n in range(1, 40)] if change == recommender.add_items else [f"i{n}" for n in range(39)]
        before = state(recommender)
        try:
            change(ids, ["tent rope map"] * 39)  # so many with one text that the vocabulary grows
        except MemoryError:
            pass
        else:
            continue
        assert state(recommender) == before
    assert calls


def test_a_shallow_copy_is_a_snapshot(recommender):
    before, snapshot = state(recommender), copy.copy(recommender)
    recommender.add_items([f"new-{n}" for n in range(30)], ["tent rope map"] * 30)
    recommender.update_items(["i0", "i1"], ["stove number", "lamp lamp rope"])
    recommender.remove_items(["i7", "new-3"])
    assert state(snapshot) == before
    assert "i7" not in recommender.tokenizer.item_ids and recommender.model.config.vocab_size > before["vocabulary"]


def test_updated_items(recommender):
    tokenizer = recommender.tokenizer
    other = int(np.flatnonzero((tokenizer.codes != tokenizer.codes[5]).any(axis=1))[0])
    before = tokenizer.semantic_ids.copy()
    logits = recommender.rank([["i1"]], [["i5"]])[1][0]
    changed = recommender.update_items(
        ["i5", "i6"],
        [recommender.titles([f"i{row}"])[0] for row in (other, 6)],  # what another item is called, what i6 is called
        table=[{"price": 99.0}, {"title": "Six"}],  # what isn't there stays
    )
    assert changed == ["i5"]
    after = recommender.tokenizer.semantic_ids
    assert after[5, :-1].tolist() == before[other, :-1].tolist() and after[5].tolist() != before[other].tolist()
    stay = np.arange(40) != 5
    assert np.array_equal(after[stay], before[stay])
    assert recommender.unseen.nonzero()[0].tolist() == [5]
    assert recommender.titles(["i6", "i5"]) == ["Six", recommender.titles(["i5"])[0]]
    assert recommender.items["price"].to_pylist()[5:7] == [99.0, 3.0]
    items, _ = recommender.recommend([[]], k=40, num_beams=40, rank=False)
    assert sorted(items[0]) == sorted(recommender.tokenizer.item_ids)
    assert recommender.rank([["i1"]], [["i5"]])[1][0] != logits
    assert recommender.tokenizer.decode(recommender.tokenizer.encode([5])).tolist() == [5]
    # The ranker reads what an item is about, even where its codes stay.
    logits = recommender.rank([["i1"]], [["i8"]])[1][0]
    nearby = recommender.tokenizer.quantizer.decode(recommender.tokenizer.codes[8:9])
    assert recommender.update_items(["i8"], embeddings=nearby) == []
    assert recommender.rank([["i1"]], [["i8"]])[1][0] != logits
    # From the table: the text of the whole row, of which one column is news.
    recommender.update_items(["i7"], table=[{"price": 4.5}])
    vector = recommender.encoder.encode([f"Title: {recommender.titles(['i7'])[0]}; Price: 4.5"])
    assert recommender.tokenizer.codes[7].tolist() == tokenizer.quantizer.encode(vector)[0].tolist()
    with pytest.raises(DataError, match="lacks: 'x', 'y'"):
        recommender.update_items(["x", "i1", "y"], ["a", "b", "c"])


def test_an_update_takes_no_id_that_another_item_gives_up():
    tokenizer = SemanticIdTokenizer(np.array([[0, 0], [0, 1], [2, 2]]), list("abc"), 4)
    changed = tokenizer.update_items(["a", "b"], codes=np.array([[0, 1], [0, 0]]))
    assert changed.tolist() == [True, True]
    assert tokenizer.semantic_ids.tolist() == [[0, 1, 1], [0, 0, 1], [2, 2, 0]]
    assert tokenizer.update_items(["c"], codes=np.array([[2, 2]])).tolist() == [False]


def test_removal_of_unknown_or_of_all_items(recommender):
    before = state(recommender)
    with pytest.raises(DataError, match="lacks: 'x', 'y'"):
        recommender.remove_items(["i1", "x", "y"])
    with pytest.raises(DataError, match="all its items"):
        recommender.remove_items([f"i{n}" for n in range(40)])
    assert state(recommender) == before


def test_unseen_items_are_remembered(recommender, tmp_path):
    recommender.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "unseen.safetensors").exists()
    recommender.add_items(["new-1", "new-2"], ["tent", "map rope"])
    recommender.remove_items(["i0", "new-1"])
    recommender.save_pretrained(tmp_path / "model")
    loaded = TigerRecommender.from_pretrained(tmp_path / "model")
    assert loaded.unseen.tolist() == [False] * 39 + [True]
    manifest = json.loads((tmp_path / "model" / "tiger.json").read_text())
    assert "unseen.safetensors" in manifest["parts"]
    (tmp_path / "model" / "unseen.safetensors").write_bytes(b"{")
    with pytest.raises(DataError, match="not as saved"):
        TigerRecommender.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("writes", ["items.parquet", "unseen.safetensors", "tiger.json"])
def test_a_save_that_fails_leaves_what_was_there(recommender, tmp_path, monkeypatch, writes):
    folder = tmp_path / "model"
    recommender.save_pretrained(folder)
    tiger = TigerRecommender.from_pretrained(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    tiger.add_items(["new"], ["tent map"])

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if writes == "items.parquet":
        monkeypatch.setattr("tiger.recommender.checkpoint.pq.write_table", no_space)
    elif writes == "unseen.safetensors":
        monkeypatch.setattr("tiger.recommender.checkpoint.write_atomically", no_space)
    else:
        monkeypatch.setattr("tiger.utils.files.os.chmod", no_space)  # the last step before the folders are swapped
    with pytest.raises(OSError, match="No space left"):
        tiger.save_pretrained(folder)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert len(TigerRecommender.from_pretrained(folder).tokenizer) == 40
    tiger.save_pretrained(folder)
    assert TigerRecommender.from_pretrained(folder).recommend([["new"]], k=40, num_beams=41)[0][0]


def test_shares_of_unseen_items(recommender):
    new = [f"new-{n}" for n in range(12)]
    recommender.add_items(new, [f"{word} {word} map" for word in "tent lamp stove rope boots map".split()] * 2)
    histories = [["i1", "i2", "new-0"], [], ["i7"]]
    for rank in (False, True):
        options = {"num_beams": 52, "rank": rank}
        for k, share, places in ((10, 0, 0), (10, 0.3, 3), (5, 0.1, 1), (10, 0.5, 5), (4, 1, 4)):
            items, scores = recommender.recommend(histories, k=k, unseen_share=share, **options)
            assert [sum(item in new for item in answer) for answer in items] == [places] * 3
            assert all(len(set(answer)) == k for answer in items) and (np.diff(scores, axis=1) <= 0).all()
        # The best of each kind, and none of the history.
        seen, _ = recommender.recommend(histories, k=10, unseen_share=0, **options)
        unseen, _ = recommender.recommend(histories, k=10, unseen_share=1, **options)
        both, _ = recommender.recommend(histories, k=10, unseen_share=0.2, **options)
        for answer, old, fresh in zip(both, seen, unseen):
            assert [i for i in answer if i not in new] == old[:8] and [i for i in answer if i in new] == fresh[:2]
        assert "new-0" not in unseen[0] and "i1" not in seen[0]
    # Newcomers with the same codes are equally probable, whatever their collision tokens.
    rows, scores = recommender.recommend([[]], k=12, unseen_share=1, num_beams=52, rank=False)
    by_codes = {}
    for item, score in zip(rows[0], scores[0]):
        by_codes.setdefault(tuple(recommender.tokenizer.codes[recommender.tokenizer.rows([item])[0]]), []).append(
            score
        )
    assert max(map(len, by_codes.values())) > 1
    assert all(max(found) - min(found) < 1e-6 for found in by_codes.values())
    # Where there are too few of a kind, the other fills in.
    items, _ = recommender.recommend([[]], k=30, unseen_share=1, num_beams=52)
    assert set(new) < set(items[0]) and len(items[0]) == 30
    items, _ = recommender.recommend([[]], k=52, unseen_share=0, num_beams=52)
    assert len(set(items[0])) == 52
    recommender.add_items(["last"], ["boots"])
    recommender.remove_items(new)
    assert recommender.recommend([[]], k=1, unseen_share=1, num_beams=41)[0] == [["last"]]
    with pytest.raises(ValueError, match="unseen_share"):
        recommender.recommend([[]], unseen_share=1.5)


def test_with_nothing_unseen_a_share_changes_nothing(recommender):
    expected = recommender.recommend([["i1"]], k=5)
    items, scores = recommender.recommend([["i1"]], k=5, unseen_share=0.4)
    assert items == expected[0] and np.array_equal(scores, expected[1])


def test_levels_that_the_model_does_not_know_are_split_evenly():
    tokenizer = make_tokenizer(60, codebook_size=3, num_codebooks=2)
    model, trie = make_model(tokenizer), SemanticIdTrie.build(tokenizer.token_table)
    history = torch.from_numpy(tokenizer.encode([[3, 4]])).flatten(1)
    beams = beam_search(model, trie, history, num_beams=60, scored_levels=2)
    assert sorted(beams.rows[0].tolist()) == list(range(60))
    for row, score in zip(beams.rows[0].tolist(), beams.scores[0].tolist()):
        # By teacher forcing: what the model gives to the codes alone.
        labels = torch.from_numpy(tokenizer.token_table[row]).view(1, 1, -1)
        logits = target_logits(model, history, torch.tensor([[2]]), labels).log_softmax(-1)
        codes = logits.gather(-1, labels.view(-1, 1))[:2].sum().item()
        together = (tokenizer.codes == tokenizer.codes[row]).all(axis=1).sum()
        assert together > 1 and score == pytest.approx(codes - np.log(together), abs=1e-4)


def test_merge_with_quota_by_hand():
    seen = np.array([[1, 2, 3], [1, -1, -1]]), np.array([[-1.0, -2, -5], [-1, -np.inf, -np.inf]])
    unseen = np.array([[7, 8, 9], [7, 8, -1]]), np.array([[-1.5, -3, -4], [-9, -10, -np.inf]])
    rows, scores = merge_with_quota(seen, unseen, k=3, quota=1)
    assert rows.tolist() == [[1, 7, 2], [1, 7, 8]]
    assert scores.tolist() == [[-1, -1.5, -2], [-1, -9, -10]]
    rows, _ = merge_with_quota(seen, unseen, k=3, quota=3)
    assert rows.tolist() == [[7, 8, 9], [1, 7, 8]]
    rows, _ = merge_with_quota(seen, (unseen[0][:, :0], unseen[1][:, :0]), k=3, quota=2)
    assert rows.tolist() == [[1, 2, 3], [1, -1, -1]]


def test_items_are_read_from_three_kinds_of_files(tmp_path):
    rows = [
        {"item_id": "007", "title": "Tent", "price": 3.5},
        {"item_id": "b", "title": "x" * 3_000_000, "price": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    lines = ["item_id,title,price", *(f"{r['item_id']},{r['title']},{r['price'] or ''}" for r in rows)]
    (tmp_path / "items.csv").write_text("\n".join(lines) + "\n")
    for kind in ("parquet", "jsonl"):
        assert read_items(tmp_path / f"items.{kind}").to_pylist() == rows
    assert read_items(tmp_path / "items.csv").to_pylist() == [rows[0] | {"price": "3.5"}, rows[1]]  # all of it text

    def refused(name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_items(tmp_path / name)

    refused("a.parquet", (tmp_path / "items.parquet").read_bytes()[:99], "a.parquet can't be read")
    refused("a.jsonl", b'{"item_id": "1"}\n{"item_id": ', "line 2 is not JSON")
    refused("b.jsonl", b"[1]\n", "line 1: no object")
    refused("c.jsonl", b'{"title": "Tent"}\n', "no column 'item_id'")
    refused("d.jsonl", b'{"item_id": 7}\n', "column 'item_id' is int64, expected text")
    refused("e.jsonl", b'{"item_id": "a"}\n{"title": "b"}\n', "row 1: item_id is null")
    refused("f.jsonl", b"\xff\n", "not UTF-8")
    refused("g.jsonl", b'{"item_id": "a", "n": ' + b"1" * 5000 + b"}\n", "line 1 is JSON that can't be read")
    refused("h.jsonl", b"[" * 100_000, "line 1 is JSON that is nested too deeply")
    refused("i.jsonl", b'{"item_id": "a", "item_id": "b"}', "names a key twice")
    refused("a.csv", b"item_id,title\na,b,c\n", "a.csv, line 2: 3 values for 2 columns")
    refused("b.csv", b"", "b.csv is empty")
    refused("c.csv", b'item_id,title\na,"b', "c.csv, line 2 is not CSV")
    refused("d.csv", b"item_id, title,title\na,b,c\n", "d.csv has the column 'title' twice")
    refused("e.csv", b"item_id,title\n ,b\n", "e.csv, row 0: item_id is null")
    refused("f.csv", b"item_id,title\n\xff,b\n", "f.csv is not UTF-8")
    twice = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["item_id", "title", "title"])
    pq.write_table(twice, tmp_path / "b.parquet")
    refused("b.parquet", (tmp_path / "b.parquet").read_bytes(), "b.parquet has the column 'title' twice")
    with pytest.raises(DataError, match="the table has the column 'title' twice"):
        item_table(twice)
    with pytest.raises(DataError, match="rows of items are dicts, .* not str"):
        item_table(["a"])
    refused("a.txt", b"item", "are read from .parquet, .csv and .jsonl")
    with pytest.raises(DataError, match="missing"):
        read_items(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="'title' holds values"):
        item_table([{"title": "a"}, {"title": 1}])


def test_ids_and_texts_of_csv_files_stay_as_they_stand(tmp_path):
    """No inference, blanks and a byte order mark around names and values left out, commas in quotes."""
    lines = ["\ufeff item_id, title,sku , size", '007, "Tent, small",0042,1e5', "", "1e5,23:59,1.50,"]
    (tmp_path / "items.csv").write_text("\n".join([*lines, ' NA ,"a\nb",true,2020-01-02\n']))
    assert read_items(tmp_path / "items.csv").to_pylist() == [
        {"item_id": "007", "title": "Tent, small", "sku": "0042", "size": "1e5"},
        {"item_id": "1e5", "title": "23:59", "sku": "1.50", "size": None},
        {"item_id": "NA", "title": "a\nb", "sku": "true", "size": "2020-01-02"},
    ]


def test_columns_are_cast_to_the_types_of_the_item_table(fitted):  # noqa: F811
    """Text of a CSV file to numbers, lists and dates; columns that the item table lacks are named."""
    tokenizer, encoder, items = fitted
    items = pa.table(
        {
            "item_id": items["item_id"],
            "title": items["title"].cast(pa.string_view()),
            "price": pa.nulls(40, pa.float64()),
            "categories": pa.array([["a", "b"]] * 40, pa.list_(pa.string())),
            "since": pa.nulls(40, pa.date32()),
            "brand": pa.array(["Acme"] * 40).dictionary_encode(),
        }
    )
    tiger = TigerRecommender(make_model(tokenizer), tokenizer, encoder, items, max_history=5)
    row = {"item_id": "007", "title": "tent", "price": "1.50", "categories": "Camp, Garden", "since": "2020-01-02"}
    with pytest.warns(UserWarning, match=r"lacks, left out: 'Titel', 'colour' \(it has item_id, title, price, "):
        tiger.add_items(["007"], table=[row | {"Titel": "x", "colour": "red", "brand": "Emca"}])
    added = tiger.items.to_pylist()[-1]
    assert added["price"] == 1.5 and added["categories"] == ["Camp, Garden"] and added["brand"] == "Emca"
    assert added["since"].isoformat() == "2020-01-02" and added["title"] == "tent"
    assert tiger.items.slice(0, 40).to_pylist() == items.to_pylist()
    tiger.update_items(["i3"], table=[{"title": None, "price": "2"}])
    assert tiger.items.to_pylist()[3]["price"] == 2 and tiger.titles(["i3"]) == [items["title"][3].as_py()]
    with pytest.raises(DataError, match="'price' does not fit the item table's, which is double, first at item 'y'"):
        tiger.add_items(["x", "y"], table=[{"title": "a", "price": "1"}, {"title": "b", "price": "cheap"}])
    for value in ({"a": 1}, ["a", {"b": 1}]):
        with pytest.raises(DataError, match="'title'"):
            tiger.add_items(["x"], table=[{"title": value}])


def test_iterators_are_read_once(fitted):  # noqa: F811
    tokenizer, encoder, items = fitted
    tiger = TigerRecommender(make_model(tokenizer), tokenizer, encoder, items, max_history=5)
    tiger.add_items((item for item in ["x", "y"]), table=({"title": word} for word in ("tent", "map")))
    assert tiger.titles(item for item in ["x", "y"]) == ["tent", "map"]
    tiger.remove_items(item for item in ["x", "i3"])
    assert len(tiger.tokenizer) == 40 and tiger.tokenizer.rows(["i3", "y"], missing=-1).tolist() == [-1, 39]
    with pytest.raises(TypeError, match="lists"):
        tiger.remove_items("i4")


def test_a_million_items_and_their_newcomers():
    """What a share costs beside decoding: two tries, once, and a merge of two lists."""
    codes = np.random.default_rng(0).integers(0, 256, (1_000_000, 3))
    tokenizer = SemanticIdTokenizer(codes, [str(n) for n in range(len(codes))], 256)
    tiger = TigerRecommender(make_model(tokenizer), tokenizer)
    tiger.unseen[-1000:] = True
    histories = Sequences(np.array([0, 1]), np.array([999_999], dtype=np.int32), np.zeros(1))
    rows, _ = tiger.recommend_rows(histories, k=10, num_beams=20, unseen_share=0.5)
    assert (rows >= 999_000).sum() == 5 and 999_999 not in rows
