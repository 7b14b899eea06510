"""Codes that say who is bought with whom: learned from training events, given to new items by their texts."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from recipes import tokenizer as recipe
from tests.recipes.test_ranking_experiment import write_dataset
from tiger.data.dataset import RecommendationData
from tiger.embeddings.auto import load_encoder
from tiger.embeddings.item_text import item_texts
from tiger.quantizers.log_report import log_report
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError


def fit(monkeypatch, dataset, folder, *options) -> SemanticIdTokenizer:
    argv = ["tokenizer.py", "--dataset", dataset, "--output_dir", folder, "--encoder", "lsa", "--embedding_dim", 8]
    argv += ["--codebook_size", 8, "--num_codebooks", 2, *options]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    recipe.main()
    return SemanticIdTokenizer.from_pretrained(folder)


def test_codes_of_texts_and_log(tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "data")
    options = ("--quantizer", "residual-kmeans", "--cooccurrence_weight", 1)
    tokenizer = fit(monkeypatch, dataset, tmp_path / "both", *options)
    texts = fit(monkeypatch, dataset, tmp_path / "texts", *options[:2])
    assert tokenizer.fingerprint != texts.fingerprint
    # Of a new item the text alone is known, and the quantizer that is kept wants no more.
    data = RecommendationData.load(dataset)
    vectors = load_encoder(tmp_path / "both" / "encoder").encode(["a new one"])
    assert tokenizer.quantizer.config.input_dim == vectors.shape[1] == 8
    (row,) = tokenizer.add_items(["new"], vectors)
    assert row == data.num_items

    # Who changes nothing keeps its codes, although the text alone would give others.
    texts_of_all = load_encoder(tmp_path / "both" / "encoder").encode(item_texts(data.items))
    assert (tokenizer.quantizer.encode(texts_of_all) != tokenizer.codes[:-1]).any()
    assert not tokenizer.update_items(data.item_ids, texts_of_all, before=texts_of_all).any()

    # What is validated and tested on has no say: any other items in its place, and the codes are the same.
    table = pq.read_table(dataset / "interactions.parquet")
    split = data.leave_one_out()
    users, items = data.sequences.users, data.sequences.items.copy()
    left = np.flatnonzero(np.append(users[2:] != users[:-2], [True, True]))  # the last two events of each user
    left = left[np.isin(users[left], split.users)]
    items[left] = np.random.default_rng(0).permutation(items[left])
    names = np.array(data.item_ids)[items]
    log = {"user_id": data.user_ids.take(users), "item_id": names, "timestamp": data.sequences.timestamps}
    other = tmp_path / "other"
    other.mkdir()
    pq.write_table(pq.read_table(dataset / "items.parquet"), other / "items.parquet")
    pq.write_table(type(table).from_pydict(log), other / "interactions.parquet")
    assert (RecommendationData.load(other).sequences.items != data.sequences.items).any()
    again = fit(monkeypatch, other, tmp_path / "again", *options)
    assert np.array_equal(again.codes, tokenizer.codes[:-1])
    report = json.loads((tmp_path / "both" / "report.json").read_text())
    assert report["cooccurrence_weight"] == 1
    # The report measures the codes by the same events, and finds what they learned.
    measured = log_report(tokenizer.codes[:-1], split.train)
    assert {name: report[name] for name in measured} == measured
    assert report["cooccurrence_lift"][0] > 1.5 and report["head"]["items"] + report["tail"]["items"] == data.num_items


def test_wrong_settings(tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "data")
    with pytest.raises(DataError, match="need residual-kmeans"):
        fit(monkeypatch, dataset, tmp_path / "no", "--quantizer", "rqvae", "--cooccurrence_weight", 1)
    fit(monkeypatch, dataset, tmp_path / "codes", "--quantizer", "residual-kmeans", "--cooccurrence_weight", 1)
    tokenizer = SemanticIdTokenizer.from_pretrained(tmp_path / "codes").with_tokens("prefixes")
    tokenizer.save_pretrained(tmp_path / "again")
    tokenizer = SemanticIdTokenizer.from_pretrained(tmp_path / "again")
    tokenizer.check_split(None)
    with pytest.raises(DataError, match="fit a tokenizer with shuffle_ties 0"):
        tokenizer.check_split(0)
