"""Quantizers by name: fit, save, load, and register new kinds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tiger.quantizers.base import Quantizer
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError
from tiger.utils.json_files import read_json
from tiger.utils.registry import Registry
from tiger.utils.schema import shown

KIND_FILE = "quantizer.json"

QUANTIZERS: Registry[Quantizer] = Registry(
    "quantizer",
    {
        "rqvae": "tiger.quantizers.rqvae:RQVAE",
        "residual-kmeans": "tiger.quantizers.residual_kmeans:ResidualKMeans",
    },
)


def register_quantizer(kind: type[Quantizer]) -> type[Quantizer]:
    """Register a quantizer class under its ``kind``, for settings and :func:`load_quantizer`; also a decorator."""
    QUANTIZERS.register(kind.kind, kind)
    return kind


def quantizer_class(quantizer: str | type[Quantizer] | Quantizer) -> type[Quantizer]:
    """Return the class of a quantizer that is given by name, as a class, or fitted.

    Raises:
        DataError: the name is unknown.
    """
    if isinstance(quantizer, str):
        return QUANTIZERS[quantizer]
    return quantizer if isinstance(quantizer, type) else type(quantizer)


def fit_quantizer(
    quantizer: str | type[Quantizer] | Quantizer,
    embeddings: np.ndarray,
    num_codebooks: int,
    codebook_size: int,
    **options: Any,
) -> Quantizer:
    """Fit a quantizer that is given by its name or as a class; one that is fitted already is returned as it is.

    Args:
        options: of the quantizer's own ``fit``.

    Raises:
        DataError: the name is unknown, or as ``fit`` itself.
    """
    if not isinstance(quantizer, str | type):
        return quantizer
    kind = quantizer_class(quantizer)
    return kind.fit(embeddings, num_codebooks=num_codebooks, codebook_size=codebook_size, **options)


def save_quantizer(quantizer: Quantizer, directory: str | os.PathLike) -> None:
    """Write a quantizer and, as ``quantizer.json``, its kind."""
    with disk_errors(directory):
        Path(directory).mkdir(parents=True, exist_ok=True)
        quantizer.save_pretrained(directory)
        QUANTIZERS.write_kind(Path(directory) / KIND_FILE, quantizer.kind)


def load_quantizer(directory: str | os.PathLike) -> Quantizer:
    """Read what :func:`save_quantizer`, or ``save_pretrained`` of one of the library's own, wrote.

    Raises:
        DataError: there is none, it is damaged, or of an unknown kind.
    """
    file, config = Path(directory) / KIND_FILE, Path(directory) / "config.json"
    if file.exists():
        return QUANTIZERS.saved(QUANTIZERS.read_kind(file), file).from_pretrained(directory)
    if not config.exists():
        raise DataError(f"{config} is missing: {directory} holds no saved quantizer.")
    model_type = read_json(config).get("model_type")
    kind = str(model_type).removeprefix("tiger-")
    if kind == model_type or kind not in QUANTIZERS:
        raise DataError(
            f"{config}: model_type {shown(model_type)} is not a quantizer. "
            "Give the directory that a quantizer's save_pretrained wrote."
        )
    return QUANTIZERS[kind].from_pretrained(directory)
