"""Item text to float32 vectors: a SentenceTransformer with an on-disk cache, or the built-in LSA encoder.

Both encoders answer ``encode(texts)``, have a ``name``, and save themselves beside a model with ``save_pretrained``;
:func:`load_encoder` opens whichever was saved.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd
from tqdm.auto import tqdm

from tiger.data import DataError

DEFAULT_ENCODER = "sentence-transformers/sentence-t5-base"
_FIRST_COLUMNS = ("title", "price", "brand", "categories")
MAX_TEXT = 100_000  # characters; encoders read a few thousand at most
_CHUNK = 8192


def item_texts(items: pa.Table, template: str | None = None, required: bool = True) -> list[str]:
    """One text an item: ``Title: Rose soap; Price: 4.99; Brand: Acme``, without what is missing.

    Args:
        items: the item table, with ``item_id``.
        template: the columns to write, in order, separated by commas (``"title,brand"``). None: title, price, brand
            and categories as far as there are any, then every other column of text in the order of the file.
        required: False: an item without text has an empty one.

    Nulls, blank text and NaN are left out together with their label; lists of words are joined by commas.

    Raises:
        DataError: the template names a column that the table lacks, or an item has no text at all.
    """
    names = _template_columns(items.schema) if template is None else [name.strip() for name in template.split(",")]
    for name in names:
        if name not in items.column_names or name == "item_id":
            others = ", ".join(column for column in items.column_names if column != "item_id")
            raise DataError(
                f"the text template names column {name!r}; the items have {others or 'no columns but ids'}."
            )
    if not names:
        raise DataError("items have no column of text. Add one, `title` for example.")
    parts: list[list[str]] = [[] for _ in range(items.num_rows)]
    for name in names:
        label = name.replace("_", " ").strip().capitalize()
        for row, value in enumerate(_column_texts(items[name])):
            if value:
                parts[row].append(f"{label}: {value}")
    for row, part in enumerate(parts):
        if not part and required:
            raise DataError(
                f"item {items['item_id'][row].as_py()!r} (row {row}) has no text in {', '.join(names)}. "
                "Fill in one of these columns or drop the item."
            )
    return ["; ".join(part) for part in parts]


def check_texts(item_ids: Sequence[str], texts: Sequence[str]) -> None:
    """Refuse texts that no item can be known by.

    Raises:
        DataError: naming the item whose text is no text, blank, of more than ``MAX_TEXT`` characters or no Unicode.
    """
    for item, text in zip(item_ids, texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"item {item!r} has no text. Give it one, or leave the item out.")
        if len(text) > MAX_TEXT:
            raise DataError(f"item {item!r} has a text of {len(text):,} characters, more than {MAX_TEXT:,}. Cut it.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"item {item!r} has half a character in its text ({text[error.start]!r}).") from error


def _template_columns(schema: pa.Schema) -> list[str]:
    def is_text(kind: pa.DataType) -> bool:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
            kind = kind.value_type
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)

    first = [name for name in _FIRST_COLUMNS if name in schema.names]
    return first + [f.name for f in schema if f.name not in (*first, "item_id") and is_text(f.type)]


def _column_texts(column: pa.ChunkedArray) -> Iterator[str]:
    if pa.types.is_floating(column.type):
        # As NumPy scalars, so that a float32 price reads 5.04 and not 5.039999961853027; 5.0 reads 5.
        for value in column.to_numpy():
            yield np.format_float_positional(value, trim="-") if math.isfinite(value) else ""
    else:
        for value in column.to_pylist():
            yield _value_text(value)


def _value_text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(text for text in map(_value_text, value) if text)
    return " ".join(str(value).split())


def check_embeddings(embeddings: np.ndarray | torch.Tensor, source: str = "embeddings") -> np.ndarray:
    """The matrix as float32 [n, d], checked; float32 input is not copied.

    Args:
        source: what error messages call it.

    Raises:
        DataError: not a matrix of numbers, no rows or columns, or a row that holds NaN or infinity.
    """
    if isinstance(embeddings, torch.Tensor):
        embeddings = embeddings.detach().cpu().float().numpy()
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or 0 in embeddings.shape or not np.issubdtype(embeddings.dtype, np.number):
        raise DataError(
            f"{source} must be a matrix of numbers [items, dimensions], got {embeddings.dtype} {embeddings.shape}."
        )
    embeddings = embeddings.astype(np.float32, copy=False)
    bad = np.concatenate(
        [
            start + np.flatnonzero(~np.isfinite(embeddings[start : start + _CHUNK]).all(axis=1))
            for start in range(0, len(embeddings), _CHUNK)
        ]
    )
    if len(bad):
        rows = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise DataError(
            f"{source}: {len(bad)} of {len(embeddings)} rows hold NaN or infinity (rows {rows}). "
            "Embed the texts of these items again, or drop the items."
        )
    return embeddings


def load_embeddings(path: str | os.PathLike, num_items: int) -> np.ndarray:
    """Vectors computed elsewhere: float32 [num_items, d], in the order of ``items.parquet``.

    Args:
        path: a safetensors file with one tensor, ``embeddings``, of any floating type.

    Raises:
        DataError: no such file, not safetensors, no such tensor, another number of rows, or NaN in it.
    """
    if not Path(path).is_file():
        raise DataError(f"{path} is missing: write a safetensors file with one tensor named 'embeddings'.")
    try:
        with safe_open(path, framework="pt") as file:
            if list(file.keys()) != ["embeddings"]:
                raise DataError(f"{path} holds {list(file.keys())}, expected one tensor named 'embeddings'.")
            embeddings = file.get_tensor("embeddings")
    except SafetensorError as error:
        raise DataError(f"{path} is not a whole safetensors file ({error}). Write it again.") from error
    if embeddings.ndim == 2 and len(embeddings) != num_items:
        raise DataError(
            f"{path} has {len(embeddings)} rows but there are {num_items} items. "
            "Write one row an item, in the order of items.parquet."
        )
    return check_embeddings(embeddings, str(path))


class SentenceEncoder:
    """Any SentenceTransformer, by name or folder; every text is embedded once and then read from the disk.

    Args:
        name: of a model on the Hub, or a local folder.
        revision: branch, tag or commit on the Hub.
        batch_size: texts a step.
        device: such as ``"cuda"``; None: the best there is.
        cache_dir: where vectors are kept; None: ``$XDG_CACHE_HOME/tiger``, by default ``~/.cache/tiger``.
        progress: show a bar while embedding.

    The model itself is loaded when the first text is missing in the cache.

    Example::

        encoder = SentenceEncoder("sentence-transformers/sentence-t5-base")
        embeddings = encoder.encode(item_texts(data.items))
    """

    def __init__(
        self,
        name: str | os.PathLike = DEFAULT_ENCODER,
        *,
        revision: str | None = None,
        batch_size: int = 64,
        device: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        progress: bool = True,
    ) -> None:
        self.name = os.fspath(name)
        self.revision = revision
        self.batch_size = batch_size
        self.device = device
        self.progress = progress
        self.cache_dir = Path(cache_dir) if cache_dir is not None else _default_cache_dir()
        self._model = None
        self._cache: _VectorCache | None = None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of the texts: float32 [n, d], in their order.

        Raises:
            DataError: no texts, or the model can't be loaded.
        """
        if len(texts) == 0:
            raise DataError("no texts to embed.")
        if self._cache is None:
            slug = re.sub(r"[^A-Za-z0-9.-]+", "-", self.name).strip("-.")[-60:]
            self._cache = _VectorCache(self.cache_dir / f"{slug}-{self._fingerprint()[:16]}")
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        found = self._cache.read(set(keys))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            found.update(self._embed(missing))
        return np.stack([found[key] for key in keys])

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write ``encoder.json``: the name and revision only, the weights stay where they are."""
        _write_json(directory, {"kind": "sentence-transformers", "name": self.name, "revision": self.revision})

    def _embed(self, texts: dict[bytes, str]) -> dict[bytes, np.ndarray]:
        model = self._load()
        # Texts of like length share a batch, so little is padded; the longest first, so that memory runs out at once.
        keys = sorted(texts, key=lambda key: (-len(texts[key]), key))
        found: dict[bytes, np.ndarray] = {}
        unsaved: dict[bytes, np.ndarray] = {}
        with tqdm(total=len(keys), desc="embedding", unit="text", disable=not self.progress) as bar:
            for start in range(0, len(keys), self.batch_size):
                batch = keys[start : start + self.batch_size]
                vectors = model.encode([texts[key] for key in batch], batch_size=len(batch), show_progress_bar=False)
                unsaved.update(zip(batch, vectors.astype(np.float32, copy=False), strict=True))
                bar.update(len(batch))
                if len(unsaved) >= _CHUNK or start + self.batch_size >= len(keys):
                    self._cache.write(unsaved)  # by the thousands: a run that is broken off loses little
                    found.update(unsaved)
                    unsaved = {}
        return found

    def load(self) -> None:
        """Read the model now and not with the first texts that the cache lacks.

        Raises:
            DataError: it can't be loaded.
        """
        self._load()

    def _load(self):
        if self._model is None:
            from sentence_transformers import SentenceTransformer  # seconds to import, not needed on a cache hit

            try:
                self._model = SentenceTransformer(
                    self.name, revision=self.revision, device=self.device, trust_remote_code=False
                )
            except (OSError, ValueError) as error:
                raise DataError(
                    f"can't load the sentence encoder {self.name!r} ({error}). "
                    "Give the name of a SentenceTransformer on the Hub or the folder of one, or use the LSA encoder."
                ) from error
        return self._model

    def _fingerprint(self) -> str:
        """Which weights made a vector: the files of a local folder, the name and revision of a model on the Hub."""
        digest = hashlib.sha256()
        folder = Path(self.name)
        if folder.is_dir():
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
                with open(file, "rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        else:
            digest.update(f"{self.name}\0{self.revision}".encode())
        return digest.hexdigest()


class _VectorCache:
    """Vectors by the sha256 of their text, in safetensors files of one folder (one folder an encoder).

    A run adds a file and changes none, so nothing is rewritten for one new item and two processes don't lose each
    other's work. Many small files are merged when they are read.
    """

    max_files = 32

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, keys: set[bytes]) -> dict[bytes, np.ndarray]:
        found: dict[bytes, np.ndarray] = {}
        files = sorted(self.folder.glob("*.safetensors"))
        for file in files:
            try:
                with safe_open(file, framework="np") as stored:
                    hashes = [row.tobytes() for row in stored.get_tensor("hashes")]
                    rows = [row for row, key in enumerate(hashes) if key in keys]
                    if rows:
                        vectors = stored.get_tensor("vectors")
                        if len(vectors) != len(hashes) or vectors.ndim != 2 or not np.isfinite(vectors[rows]).all():
                            raise ValueError("its vectors don't fit its hashes or aren't finite")
                        found.update((hashes[row], vectors[row]) for row in rows)
            except FileNotFoundError:
                continue  # another process merged it away
            except (SafetensorError, OSError, ValueError) as error:
                warnings.warn(
                    f"embedding cache {file} can't be read ({error}); its texts are embedded again", stacklevel=4
                )
                with suppress(OSError):
                    file.unlink()
        if len(files) > self.max_files:
            self._merge(files)
        return found

    def write(self, vectors: dict[bytes, np.ndarray]) -> Path | None:
        """The file written; None, with a warning, where the folder can't be written."""
        keys = sorted(vectors)
        file = self.folder / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:32]}.safetensors"
        tensors = {
            "hashes": np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 32).copy(),
            "vectors": np.stack([vectors[key] for key in keys]),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
                save_file(tensors, Path(temporary) / "vectors")
                os.replace(Path(temporary) / "vectors", file)
        except OSError as error:
            warnings.warn(f"embeddings can't be cached in {self.folder} ({error})", stacklevel=5)
            return None
        return file

    def _merge(self, files: list[Path]) -> None:
        merged: dict[bytes, np.ndarray] = {}
        with suppress(OSError, SafetensorError):  # another process may merge at the same time: then it is done already
            for file in files:
                if file.exists():
                    stored = load_file(file)
                    merged.update(zip(map(bytes, stored["hashes"]), stored["vectors"], strict=True))
            written = self.write(merged)
            for file in files:
                if written is not None and file != written:
                    file.unlink(missing_ok=True)


def _default_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiger"


class LSAEncoder:
    """Latent semantic analysis: TF-IDF of words and word pairs, cut to ``dim`` by a truncated SVD, unit length.

    Needs no weights and no network: what a catalogue's own words say. Term counts are damped (1 + log); in catalogues
    of a thousand texts and more, terms of one text or of more than half of them (labels like "Title") are dropped.

    Args:
        vocabulary: words and word pairs, in the order of the columns below.
        idf: float32 [terms].
        components: float32 [dim, terms], orthonormal rows.

    Example::

        encoder = LSAEncoder.fit(texts, dim=256)
        embeddings = encoder.encode(texts)  # float32 [n, 256], also of texts never seen
    """

    def __init__(self, vocabulary: list[str], idf: np.ndarray, components: np.ndarray) -> None:
        if components.shape[1] != len(vocabulary) or idf.shape != (len(vocabulary),):
            raise DataError(
                f"LSA encoder: {len(vocabulary)} terms, idf {idf.shape} and components {components.shape} don't fit."
            )
        self.vocabulary = vocabulary
        self.idf = np.ascontiguousarray(idf, dtype=np.float32)
        self.components = np.ascontiguousarray(components, dtype=np.float32)
        self._vectorizer = _vectorizer(vocabulary={term: column for column, term in enumerate(vocabulary)})
        self._vectorizer.idf_ = self.idf

    def load(self) -> None:
        """Nothing to do: it is read as a whole."""

    @property
    def dim(self) -> int:
        return len(self.components)

    @property
    def name(self) -> str:
        return f"lsa-{self.dim}"

    @classmethod
    def fit(cls, texts: Iterable[str], dim: int = 256, *, max_terms: int = 50_000, seed: int = 0) -> LSAEncoder:
        """Learn terms and components from the texts, read once.

        Args:
            dim: length of the vectors; less where the texts or their terms are fewer.
            max_terms: the commonest words and pairs that are kept.
            seed: of the randomised SVD: equal texts and seed give equal vectors.

        Raises:
            DataError: the texts hold no word.
        """
        texts = list(texts)
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
        _, _, components = randomized_svd(counts, n_components=dim, n_iter=5, random_state=seed)
        vocabulary = [str(term) for term in vectorizer.get_feature_names_out()]
        return cls(vocabulary, vectorizer.idf_, components)

    def encode(self, texts: Iterable[str]) -> np.ndarray:
        """Vectors of length one: float32 [n, dim]. A text without a known word is the zero vector."""
        texts = iter(texts)
        chunks = []
        while chunk := list(islice(texts, _CHUNK)):
            weights: sparse.csr_matrix = self._vectorizer.transform(chunk)
            vectors = np.asarray(weights @ self.components.T, dtype=np.float32)
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            chunks.append(np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0))
        if not chunks:
            raise DataError("no texts to embed.")
        return np.concatenate(chunks)

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write ``encoder.json`` (the vocabulary) and ``encoder.safetensors``; a reload encodes alike, bit for bit."""
        _write_json(directory, {"kind": "lsa", "name": self.name, "vocabulary": self.vocabulary})
        save_file({"idf": self.idf, "components": self.components}, Path(directory) / "encoder.safetensors")

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> LSAEncoder:
        """Read what :meth:`save_pretrained` wrote."""
        saved = _read_json(directory)
        if saved["kind"] != "lsa":
            raise DataError(f"{Path(directory) / 'encoder.json'} is a {saved['kind']!r} encoder: use load_encoder.")
        tensors = load_file(Path(directory) / "encoder.safetensors")
        return cls(saved["vocabulary"], tensors["idf"], tensors["components"])


def load_encoder(
    directory: str | os.PathLike, *, device: str | None = None, cache_dir: str | os.PathLike | None = None
) -> SentenceEncoder | LSAEncoder:
    """The encoder that ``save_pretrained`` left in a directory.

    Args:
        directory: where it was saved.
        device, cache_dir: for a :class:`SentenceEncoder`.

    Raises:
        DataError: no ``encoder.json``, or of a kind that this version doesn't know.
    """
    saved = _read_json(directory)
    if saved["kind"] == "lsa":
        return LSAEncoder.from_pretrained(directory)
    if saved["kind"] == "sentence-transformers":
        return SentenceEncoder(saved["name"], revision=saved.get("revision"), device=device, cache_dir=cache_dir)
    raise DataError(f"{Path(directory) / 'encoder.json'}: unknown kind {saved['kind']!r}. Update the library.")


def _vectorizer(**settings) -> TfidfVectorizer:
    # Numbers and single letters stay in ("1 oz", "vitamin c"), which scikit-learn's own pattern drops.
    return TfidfVectorizer(
        sublinear_tf=True,
        ngram_range=(1, 2),
        strip_accents="unicode",
        token_pattern=r"(?u)\b\w+\b",
        dtype=np.float32,
        **settings,
    )


def _write_json(directory: str | os.PathLike, value: dict) -> None:
    Path(directory).mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, ensure_ascii=False, indent=1)
    (Path(directory) / "encoder.json").write_text(text + "\n", encoding="utf-8")


def _read_json(directory: str | os.PathLike) -> dict:
    file = Path(directory) / "encoder.json"
    if not file.is_file():
        raise DataError(f"{file} is missing: {directory} holds no saved encoder.")
    return json.loads(file.read_text(encoding="utf-8"))
