"""The encoder that lies in a directory, whichever it is.

Both encoders answer ``encode(texts)``, have a ``name``, and save themselves beside a model with ``save_pretrained``;
:func:`load_encoder` opens whichever was saved.
"""

from __future__ import annotations

import os
from pathlib import Path

from tiger.embeddings.base import read_json
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.embeddings.sentence_encoder import SentenceEncoder
from tiger.utils.errors import DataError


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
    saved = read_json(directory)
    if saved["kind"] == "lsa":
        return LSAEncoder.from_pretrained(directory)
    if saved["kind"] == "sentence-transformers":
        return SentenceEncoder(saved["name"], revision=saved.get("revision"), device=device, cache_dir=cache_dir)
    raise DataError(f"{Path(directory) / 'encoder.json'}: unknown kind {saved['kind']!r}. Update the library.")
