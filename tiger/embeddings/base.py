"""Protocol of encoders, checks of embeddings, and loading of embeddings that were computed elsewhere.

An encoder of your own: a class with the methods of :class:`ItemEncoder` (no need to inherit), whose
``save_pretrained`` writes ``encoder.json`` by :func:`write_json`; register it
(:func:`tiger.embeddings.auto.register_encoder`) so that it can be loaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from tiger.utils import json_files
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError
from tiger.utils.schema import check_fields, text

CHUNK = 8192
LARGEST = 1e15  # of a number in a vector: squares of larger ones, summed, leave the range of float32


class ItemEncoder(Protocol):
    """Turns texts of items into vectors.

    Attributes:
        kind: the name under which it is registered, and ``kind`` of its ``encoder.json``.
        self_contained: whether :meth:`save_pretrained` writes everything that :meth:`from_pretrained` needs.
    """

    kind: ClassVar[str]
    self_contained: ClassVar[bool]

    @property
    def name(self) -> str:
        """Its name in reports and model cards; the folder or the Hub's name of a model that isn't self-contained."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of the texts: float32 [n, d], in their order.

        Raises:
            DataError: there are no texts.
        """
        ...

    def load(self) -> None:
        """Load the model now instead of with the first texts."""
        ...

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write ``encoder.json``, with ``kind``, and what else belongs to it."""
        ...

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike, *, device: str | None = None, cache_dir: str | os.PathLike | None = None
    ) -> Any:
        """Read what :meth:`save_pretrained` wrote; for the rest see :func:`tiger.embeddings.auto.load_encoder`."""
        ...


def encode_items(encoder: ItemEncoder, texts: Sequence[str]) -> np.ndarray:
    """Encode texts and check the answer: float32 [n, d].

    Raises:
        DataError: no texts, or the encoder returns another number of vectors, NaN or infinity.
    """
    vectors = check_embeddings(encoder.encode(list(texts)), f"vectors of {encoder.name}")
    if len(vectors) != len(texts):
        raise DataError(f"{encoder.name} returned {len(vectors)} vectors for {len(texts)} texts.")
    return vectors


def is_local_folder(encoder: ItemEncoder) -> bool:
    """Whether the encoder lies in a local folder that is not saved with the recommender."""
    return not encoder.self_contained and Path(encoder.name).is_dir()


def check_embeddings(embeddings: np.ndarray | torch.Tensor, source: str = "embeddings") -> np.ndarray:
    """The matrix as float32 [n, d], checked; float32 input is not copied.

    Args:
        source: what error messages call it.

    Raises:
        DataError: not a matrix of numbers, no rows or columns, or a row that holds NaN, infinity or a number beyond
            1e15.
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
            start + np.flatnonzero(~(np.abs(embeddings[start : start + CHUNK]) <= LARGEST).all(axis=1))
            for start in range(0, len(embeddings), CHUNK)
        ]
    )
    if len(bad):
        infinite = bad[~np.isfinite(embeddings[bad]).all(axis=1)]
        bad, held = (infinite, "NaN or infinity") if len(infinite) else (bad, f"numbers beyond {LARGEST:g}")
        rows = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise DataError(
            f"{source}: {len(bad)} of {len(embeddings)} rows hold {held} (rows {rows}). "
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
            "Write one row per item, in the order of items.parquet."
        )
    return check_embeddings(embeddings, str(path))


def write_json(directory: str | os.PathLike, value: dict) -> None:
    """Write ``encoder.json``."""
    content = (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()
    with disk_errors(directory, len(content)):
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / "encoder.json").write_bytes(content)


def read_json(directory: str | os.PathLike) -> dict:
    """Read ``encoder.json``.

    Raises:
        DataError: there is none, or it is damaged.
    """
    file = Path(directory) / "encoder.json"
    if not file.exists():
        raise DataError(f"{file} is missing: {directory} holds no saved encoder.")
    saved = json_files.read_json(file)
    check_fields(saved, {"kind": text(100)}, file, name=text(4096))
    return saved


def note_place(directory: str | os.PathLike, place: str | os.PathLike) -> None:
    """Tell an encoder that was saved to ``directory`` that this is going to be ``place``.

    A name that is a folder of this machine is followed only where it was saved, see
    :class:`tiger.embeddings.sentence_encoder.SentenceEncoder`.
    """
    saved = read_json(directory)
    if "saved_in" in saved:
        write_json(directory, saved | {"saved_in": str(Path(place).resolve())})
