import numpy as np
import pytest

from tiger.embeddings.item_vectors import tfidf_vectors
from tiger.utils.errors import DataError


def test_products_are_cosines_of_words():
    random = np.random.default_rng(0)
    words = [f"word{number}" for number in range(500)]
    texts = [" ".join(random.choice(words, 8, replace=False)) for _ in range(100)]
    texts += [texts[0], texts[1] + " " + texts[2], ""]
    vectors = tfidf_vectors(texts, dim=256)
    assert vectors.shape == (103, 256) and vectors.dtype == np.float32
    products = vectors @ vectors.T
    assert np.array_equal(vectors[0], vectors[100]) and not vectors[102].any()
    assert products[0, 100] > 0.8 and 0.5 < products[1, 101] < 0.9
    assert abs(products[3:100, 0]).mean() < 0.1
    assert np.array_equal(vectors, tfidf_vectors(texts, dim=256))


def test_items_without_a_word():
    with pytest.raises(DataError, match="has a word"):
        tfidf_vectors(["", "-"])
