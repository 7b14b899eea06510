"""Text encoder by latent semantic analysis (LSA)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sized
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file
from scipy import sparse

from tiger.embeddings.base import CHUNK, read_json, write_json
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError
from tiger.utils.sampling import sampled_rows
from tiger.utils.schema import check_fields, list_of, text
from tiger.utils.tensor_files import read_arrays

MAX_TEXTS = 200_000  # that are read to learn from: more take longer and tell little more of a catalog's words

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer


class LSAEncoder:
    """Latent semantic analysis: TF-IDF of words and word pairs, cut to ``dim`` by a truncated SVD, unit length.

    Needs no weights and no network: what a catalog's own words say. Term counts are damped (1 + log); in catalogs
    of a thousand texts and more, terms of one text or of more than half of them (labels like "Title") are dropped.

    Args:
        vocabulary: words and word pairs, in the order of the columns below.
        idf: float32 [terms].
        components: float32 [dim, terms], orthonormal rows.

    Example::

        encoder = LSAEncoder.fit(texts, dim=256)
        embeddings = encoder.encode(texts)  # float32 [n, 256], also of texts never seen
    """

    kind = "lsa"
    self_contained = True

    def __init__(self, vocabulary: list[str], idf: np.ndarray, components: np.ndarray) -> None:
        if components.shape[1] != len(vocabulary) or idf.shape != (len(vocabulary),):
            raise DataError(
                f"LSA encoder: {len(vocabulary)} terms, idf {idf.shape} and components {components.shape} don't fit."
            )
        self.vocabulary = vocabulary
        self.idf = np.ascontiguousarray(idf, dtype=np.float32)
        self.components = np.ascontiguousarray(components, dtype=np.float32)
        if vocabulary:  # scikit-learn refuses none
            self._vectorizer = _vectorizer(vocabulary={term: column for column, term in enumerate(vocabulary)})
            self._vectorizer.idf_ = self.idf

    def load(self) -> None:
        """Do nothing: the encoder is in memory already."""

    @property
    def dim(self) -> int:
        return len(self.components)

    @property
    def name(self) -> str:
        return f"lsa-{self.dim}"

    @classmethod
    def fit(
        cls,
        texts: Iterable[str],
        dim: int = 256,
        *,
        max_terms: int = 50_000,
        max_texts: int = MAX_TEXTS,
        seed: int = 0,
    ) -> LSAEncoder:
        """Learn terms and components from the texts, read once.

        Args:
            dim: length of the vectors; less where the texts or their terms are fewer.
            max_terms: the commonest words and pairs that are kept.
            max_texts: texts that are read, a random sample where there are more.
            seed: of the randomized SVD: equal texts and seed give equal vectors, with any number of threads.

        Raises:
            DataError: the texts hold no word.
        """
        from sklearn.utils.extmath import randomized_svd
        from threadpoolctl import threadpool_limits

        texts = _sample(texts, max_texts, seed)
        # A word seen once can't relate two items; small sets need every word they have, and so do sets of names.
        for limits in [{"min_df": 2, "max_df": 0.5}, {}] if len(texts) >= 1000 else [{}]:
            vectorizer = _vectorizer(**limits).set_params(max_features=max_terms)
            try:
                counts = vectorizer.fit_transform(texts)
                break
            except ValueError as error:
                reason = error
        else:
            raise DataError(f"LSA can't be fitted on these {len(texts)} texts: {reason}. Give texts with words.")
        dim = max(1, min(dim, min(counts.shape) - 1))
        with threadpool_limits(1):  # several share out sums, and their number would show in the last bits
            _, _, components = randomized_svd(counts, n_components=dim, n_iter=5, random_state=seed)
        vocabulary = [str(term) for term in vectorizer.get_feature_names_out()]
        return cls(vocabulary, vectorizer.idf_, components)

    @classmethod
    def without_words(cls) -> LSAEncoder:
        """An encoder of one dimension that knows no word: the vectors of a catalog without texts are zero."""
        return cls([], np.empty(0, dtype=np.float32), np.empty((1, 0), dtype=np.float32))

    def encode(self, texts: Iterable[str]) -> np.ndarray:
        """Vectors of length one: float32 [n, dim]. A text without a known word is the zero vector."""
        # Where their number is known, the matrix is there from the start: joining its parts would take it twice.
        count = len(texts) if isinstance(texts, Sized) else 0
        whole, parts, start = np.empty((count, self.dim), dtype=np.float32), [], 0
        texts = iter(texts)
        while chunk := list(islice(texts, CHUNK)):
            weights: sparse.csr_matrix = self._weights(chunk)
            vectors = np.asarray(weights @ self.components.T, dtype=np.float32)
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
            if count:
                whole[start : start + len(chunk)] = vectors
            else:
                parts.append(vectors)
            start += len(chunk)
        if not start:
            raise DataError("no texts to embed.")
        return whole if count else np.concatenate(parts)

    def _weights(self, texts: list[str]) -> sparse.csr_matrix:
        """TF-IDF of the texts, float32 [n, terms]."""
        if not self.vocabulary:
            return sparse.csr_matrix((len(texts), 0), dtype=np.float32)
        return self._vectorizer.transform(texts)

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write ``encoder.json`` (the vocabulary) and ``encoder.safetensors``; a reload encodes alike, bit for bit."""
        write_json(directory, {"kind": self.kind, "name": self.name, "vocabulary": self.vocabulary})
        with disk_errors(directory, self.idf.nbytes + self.components.nbytes):
            save_file({"idf": self.idf, "components": self.components}, Path(directory) / "encoder.safetensors")

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike, *, device: str | None = None, cache_dir: str | os.PathLike | None = None
    ) -> LSAEncoder:
        """Read what :meth:`save_pretrained` wrote. It computes on the CPU and keeps no vectors.

        Raises:
            DataError: a file is missing, damaged or another encoder's.
        """
        saved = read_json(directory)
        if saved["kind"] != cls.kind:
            raise DataError(f"{Path(directory) / 'encoder.json'} is a {saved['kind']!r} encoder: use load_encoder.")
        rules = {"vocabulary": list_of(text(10_000), longest=10_000_000)}
        check_fields(saved, rules, Path(directory) / "encoder.json")
        vocabulary = saved["vocabulary"]
        if len(set(vocabulary)) < len(vocabulary):
            raise DataError(f"{Path(directory) / 'encoder.json'} is damaged: it has a term twice.")
        size = len(vocabulary)
        shapes = {"idf": ("F32", (size,)), "components": ("F32", (None, size))}
        tensors = read_arrays(Path(directory) / "encoder.safetensors", shapes)
        if not len(tensors["components"]):
            raise DataError(f"{Path(directory) / 'encoder.safetensors'} is damaged: vectors without dimensions.")
        return cls(vocabulary, tensors["idf"], tensors["components"])


def _sample(texts: Iterable[str], count: int, seed: int) -> list[str]:
    """At most so many of the texts, in their order."""
    texts = list(texts)
    return [texts[row] for row in sampled_rows(len(texts), count, seed)]


def _vectorizer(**settings) -> TfidfVectorizer:
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Numbers and single letters stay in ("1 oz", "vitamin c"), which scikit-learn's own pattern drops. Words of more
    # than 1,000 letters don't: a term that is saved must not be longer than one that is read.
    return TfidfVectorizer(
        sublinear_tf=True,
        ngram_range=(1, 2),
        strip_accents="unicode",
        token_pattern=r"(?u)\b\w{1,1000}\b",
        dtype=np.float32,
        **settings,
    )
