"""The quantizer that lies in a directory, whichever it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.quantizers.rqvae import RQVAE
from tiger.utils.errors import DataError


def load_quantizer(directory: str | os.PathLike) -> RQVAE | ResidualKMeans:
    """The quantizer that ``save_pretrained`` left in a directory, of the kind that its ``config.json`` names.

    Raises:
        DataError: no ``config.json``, or of another kind of model.
    """
    file = Path(directory) / "config.json"
    if not file.is_file():
        raise DataError(f"{file} is missing: {directory} holds no saved quantizer.")
    model_type = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    for kind in (RQVAE, ResidualKMeans):
        if kind.config_class.model_type == model_type:
            return kind.from_pretrained(directory)
    raise DataError(
        f"{file}: model_type {model_type!r} is no quantizer. Point to what a quantizer's save_pretrained wrote."
    )
