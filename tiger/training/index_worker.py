"""The work of indexing that any number of processes share: texts of a chunk to vectors, vectors to codes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from tiger.embeddings.auto import load_encoder
from tiger.embeddings.base import encode_items
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.sentence_encoder import SentenceEncoder
from tiger.quantizers.auto import load_quantizer
from tiger.training.item_chunks import ItemChunk
from tiger.utils.errors import DataError
from tiger.utils.stores import Store, open_store

ENCODER = "encoder"
VECTORS, CODES = "vectors", "codes"
WORK_FOLDERS = (ENCODER, VECTORS, CODES)  # beside those of the quantizers


@dataclass(frozen=True)
class IndexSettings:
    """Settings of a worker: places, not their content.

    Args:
        work: folder of intermediate files, a path or URL, which all machines reach.
        encoder: ``lsa``, which is read from that folder, or a SentenceTransformer by name or folder.
        template: columns of an item's text.
        threads: of torch; None: as it is.
    """

    work: str
    encoder: str
    template: str | None
    threads: int | None = None


@dataclass(frozen=True)
class QuantizeTask:
    """Vectors to quantize.

    Args:
        chunk: number of the chunk.
        quantizer: folder of it, within the work folder.
    """

    chunk: int
    quantizer: str


def vectors_file(chunk: int) -> str:
    """Name of the file of a chunk's vectors."""
    return f"{VECTORS}/{chunk}.safetensors"


def codes_file(quantizer: str, chunk: int) -> str:
    """Name of the file of a chunk's codes."""
    return f"{CODES}/{quantizer}/{chunk}.safetensors"


def read_array(store: Store, name: str) -> np.ndarray:
    """An array that a worker has left.

    Raises:
        DataError: there is none.
    """
    content = store.read(name)
    if content is None:
        raise DataError(f"{store.place}/{name} is missing: remove the folder, then start again.")
    return load(content)["array"]


class IndexWorker:
    """Encodes and quantizes chunks, and leaves the results in files; what is there already is not made again."""

    def __init__(self, settings: IndexSettings):
        if settings.threads is not None:
            import torch

            torch.set_num_threads(settings.threads)
        self._settings, self._store = settings, open_store(settings.work)
        self._encoder: Any = None
        self._quantizers: dict[str, Any] = {}

    def encode(self, chunk: ItemChunk) -> None:
        """Write the vectors of a chunk's texts."""
        name = vectors_file(chunk.number)
        if not self._store.size(name):
            if self._encoder is None:
                self._encoder = self._read_encoder()
            vectors = encode_items(self._encoder, item_texts(chunk.read(), self._settings.template))
            self._store.write(name, save({"array": vectors}))

    def quantize(self, task: QuantizeTask) -> None:
        """Write the codes of a chunk's vectors."""
        name = codes_file(task.quantizer, task.chunk)
        if not self._store.size(name):
            if task.quantizer not in self._quantizers:
                with _fetched(self._store, task.quantizer) as folder:
                    self._quantizers[task.quantizer] = load_quantizer(folder)
            vectors = read_array(self._store, vectors_file(task.chunk))
            self._store.write(name, save({"array": self._quantizers[task.quantizer].encode(vectors)}))

    def _read_encoder(self) -> Any:
        if self._settings.encoder != "lsa":
            return SentenceEncoder(self._settings.encoder, progress=False)
        with _fetched(self._store, ENCODER) as folder:
            return load_encoder(folder)


class _fetched:
    """A folder of a store as one of this machine, while the block runs."""

    def __init__(self, store: Store, folder: str):
        self._store, self._folder = store, folder

    def __enter__(self) -> Path:
        self._scratch = tempfile.TemporaryDirectory(prefix="tiger.")
        for name in self._store.names(self._folder):
            file = Path(self._scratch.name, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self._store.read(name) or b"")
        return Path(self._scratch.name, self._folder)

    def __exit__(self, *error: object) -> None:
        self._scratch.cleanup()
