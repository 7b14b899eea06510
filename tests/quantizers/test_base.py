"""A quantizer of a user's own: passed as a class, as an object or by name; saved and loaded with the tokenizer."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import make_model
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.quantizers import auto
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.drift import drift_report
from tiger.semantic_ids.tokenizer import Cooccurrence, SemanticIdTokenizer
from tiger.utils.errors import DataError
from tiger.utils.registry import Registry


class Signs:
    """A code is 1 where a dimension is above the mean of all, else 0."""

    kind = "signs"

    def __init__(self, mean, num_codebooks):
        self.mean, self.num_codebooks = np.asarray(mean, dtype=np.float32), num_codebooks

    @classmethod
    def fit(cls, embeddings, num_codebooks, codebook_size, shift=0.0):
        assert codebook_size == 2
        return cls(embeddings.mean(axis=0) + shift, num_codebooks)

    @property
    def input_dim(self):
        return len(self.mean)

    @property
    def codebook_size(self):
        return 2

    def encode(self, embeddings):
        return (embeddings > self.mean)[:, : self.num_codebooks].astype(np.int32)

    def decode(self, codes):
        found = np.tile(self.mean, (len(codes), 1))
        found[:, : self.num_codebooks] += np.asarray(codes) - 0.5
        return found

    def save_pretrained(self, directory):
        (Path(directory) / "signs.json").write_text(json.dumps([self.mean.tolist(), self.num_codebooks]))

    @classmethod
    def from_pretrained(cls, directory):
        return cls(*json.loads((Path(directory) / "signs.json").read_text()))


TEXTS = [f"{kind} {noun} {n}" for n, kind in enumerate(("red", "blue", "green")) for noun in ("soap", "tent", "rope")]
IDS = [f"i{n}" for n in range(len(TEXTS))]


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(auto, "QUANTIZERS", Registry("quantizer", {"rqvae": "tiger.quantizers.rqvae:RQVAE"}))
    auto.register_quantizer(Signs)


@pytest.fixture(scope="module")
def encoder():
    return LSAEncoder.fit(TEXTS, dim=4)


def test_as_a_class_an_object_or_a_name(encoder, registered):
    vectors = encoder.encode(TEXTS)
    of_class = SemanticIdTokenizer.fit(vectors, IDS, 3, 2, quantizer=Signs)
    of_name = SemanticIdTokenizer.fit(vectors, IDS, 3, 2, quantizer="signs")
    of_object = SemanticIdTokenizer.fit(vectors, IDS, 3, 2, quantizer=of_class.quantizer)
    assert of_class.fingerprint == of_name.fingerprint == of_object.fingerprint
    assert of_object.quantizer is of_class.quantizer
    assert of_class.codes.tolist() == (vectors > vectors.mean(axis=0))[:, :3].astype(int).tolist()
    shifted = SemanticIdTokenizer.fit(vectors, IDS, 3, 2, quantizer=Signs, shift=10.0)
    assert not shifted.codes.any()


def test_saved_with_a_recommender_that_takes_new_items(encoder, registered, tmp_path):
    tokenizer = SemanticIdTokenizer.fit(encoder.encode(TEXTS), IDS, 3, 2, quantizer=Signs)
    tiger = TigerRecommender(make_model(tokenizer), tokenizer, encoder)
    tiger.save_pretrained(tmp_path / "model")
    again = TigerRecommender.from_pretrained(tmp_path / "model")
    assert type(again.tokenizer.quantizer) is Signs
    again.add_items(["new"], ["red soap 0"])
    assert again.tokenizer.codes[-1].tolist() == again.tokenizer.codes[0].tolist()
    report = drift_report(again.tokenizer.quantizer, encoder.encode(TEXTS), encoder.encode(TEXTS[:4]))
    assert report["new"]["num_items"] == 4


def test_what_is_not_possible_is_said(encoder, tmp_path):
    vectors = encoder.encode(TEXTS)
    with pytest.raises(DataError, match="Signs can't give codes to new items"):
        SemanticIdTokenizer.fit(vectors, IDS, 3, 2, quantizer=Signs, cooccurrence=Cooccurrence(vectors, {}))
    with pytest.raises(DataError, match="one of rqvae, residual-kmeans, got 'signs'"):
        SemanticIdTokenizer.fit(vectors, IDS, 3, 2, quantizer="signs")
    SemanticIdTokenizer.fit(vectors, IDS, 3, 2, quantizer=Signs).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="unknown kind 'signs'. Import the module that registers it"):
        SemanticIdTokenizer.from_pretrained(tmp_path)
