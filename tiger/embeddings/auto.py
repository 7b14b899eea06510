"""Encoders by kind: load from a directory, and register new kinds."""

from __future__ import annotations

import os
from pathlib import Path

from tiger.embeddings.base import ItemEncoder, read_json
from tiger.utils.registry import Registry

ENCODERS: Registry[ItemEncoder] = Registry(
    "encoder",
    {
        "lsa": "tiger.embeddings.lsa_encoder:LSAEncoder",
        "sentence-transformers": "tiger.embeddings.sentence_encoder:SentenceEncoder",
    },
)


def register_encoder(kind: type[ItemEncoder]) -> type[ItemEncoder]:
    """Register an encoder class under its ``kind``, for :func:`load_encoder`. Usable as a decorator."""
    ENCODERS.register(kind.kind, kind)
    return kind


def load_encoder(
    directory: str | os.PathLike, *, device: str | None = None, cache_dir: str | os.PathLike | None = None
) -> ItemEncoder:
    """Read the encoder that ``save_pretrained`` wrote into a directory.

    Args:
        directory: where it was saved.
        device: where it computes, such as ``"cuda"``, if it has a choice; None: the best there is.
        cache_dir: where it keeps vectors, if it does; None: its default.

    Raises:
        DataError: no ``encoder.json``, or an unknown kind.
    """
    kind = ENCODERS.saved(read_json(directory)["kind"], Path(directory) / "encoder.json")
    return kind.from_pretrained(directory, device=device, cache_dir=cache_dir)
