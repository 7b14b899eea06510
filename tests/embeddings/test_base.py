"""An encoder of a user's own embeds new items and is saved and loaded with the recommender."""

import numpy as np
import pytest

from tests.conftest import make_model
from tiger.embeddings import auto
from tiger.embeddings.base import encode_items, read_json, write_json
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.recommender.model_card import model_card
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError
from tiger.utils.registry import Registry


class Letters:
    """Counts letters."""

    kind = "letters"
    self_contained = True

    def __init__(self, letters):
        self.letters = letters

    @property
    def name(self):
        return f"letters-{self.letters}"

    def encode(self, texts):
        return np.array([[text.count(letter) for letter in self.letters] for text in texts], dtype=np.float32)

    def load(self):
        pass

    def save_pretrained(self, directory):
        write_json(directory, {"kind": self.kind, "letters": self.letters})

    @classmethod
    def from_pretrained(cls, directory, *, device=None, cache_dir=None):
        return cls(read_json(directory)["letters"])


def test_a_users_own_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(auto, "ENCODERS", Registry("encoder", {"lsa": "tiger.embeddings.lsa_encoder:LSAEncoder"}))
    texts, encoder = ["aab", "abb", "bbb", "aaa", "cab", "ccc"], Letters("abc")
    tokenizer = SemanticIdTokenizer.fit(
        encoder.encode(texts), list("uvwxyz"), 2, 2, quantizer=ResidualKMeans, progress=False
    )
    tiger = TigerRecommender(make_model(tokenizer), tokenizer, encoder)
    tiger.save_pretrained(tmp_path / "model")
    with pytest.raises(DataError, match="unknown kind 'letters'"):
        TigerRecommender.from_pretrained(tmp_path / "model")
    auto.register_encoder(Letters)
    again = TigerRecommender.from_pretrained(tmp_path / "model")
    assert again.add_items(["new"], ["baa"]) == ["new"]
    assert again.tokenizer.codes[-1].tolist() == again.tokenizer.codes[0].tolist()
    card = model_card(again.state, "me/letters")
    assert "the encoder in here, `letters-abc`" in card and "| the text encoder |" in card.replace("  ", "")


def test_what_an_encoder_returns_is_checked():
    class Wrong(Letters):
        def encode(self, texts):
            return np.full((len(texts), 2), np.nan)

    with pytest.raises(DataError, match="vectors of letters-ab: 1 of 1 rows hold NaN"):
        encode_items(Wrong("ab"), ["a"])

    class Fewer(Letters):
        def encode(self, texts):
            return super().encode(texts[1:])

    with pytest.raises(DataError, match="letters-ab returned 1 vectors for 2 texts"):
        encode_items(Fewer("ab"), ["a", "b"])
