"""The protocol that every quantizer follows; encoding, decoding and checks for the library's own.

A quantizer of your own: a class with the methods of :class:`Quantizer` (no need to inherit), passed to
:meth:`tiger.SemanticIdTokenizer.fit`, and registered (:func:`tiger.quantizers.auto.register_quantizer`) so that it can
be loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from tiger.embeddings.base import check_embeddings
from tiger.quantizers.kmeans import CHUNK, nearest_codes, sum_of_codes
from tiger.utils.errors import DataError
from tiger.utils.model_files import load_model
from tiger.utils.schema import Rule, whole

# Sizes that a config may have; tensors of these shapes must be in the file beside it.
SIZES: dict[str, Rule] = {
    "input_dim": whole(1, 1 << 20),
    "num_codebooks": whole(1, 64),
    "codebook_size": whole(1, 1 << 24),
}


class Quantizer(Protocol):
    """Turns embeddings into short tuples of codes, and back.

    One that should also learn from co-occurrences has a method ``truncate(input_dim)``, see
    :meth:`tiger.quantizers.residual_kmeans.ResidualKMeans.truncate`.

    Attributes:
        kind: the name under which it is registered and saved.
    """

    kind: ClassVar[str]

    @classmethod
    def fit(cls, embeddings: np.ndarray, num_codebooks: int, codebook_size: int, **options: Any) -> Any:
        """Fit to embeddings, float [items, input_dim]. Options are the quantizer's own (``seed``, ...)."""
        ...

    @property
    def input_dim(self) -> int:
        """Dimensions of the embeddings that it was fitted to."""
        ...

    @property
    def codebook_size(self) -> int:
        """Codes per level."""
        ...

    def encode(self, embeddings: np.ndarray) -> np.ndarray:
        """Embeddings [n, input_dim] to codes, int [n, num_codebooks], each from 0 to ``codebook_size`` - 1.

        An embedding's codes must depend on it alone.
        """
        ...

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes int [n, num_codebooks] to the embeddings that they stand for: float32 [n, input_dim]."""
        ...

    def save_pretrained(self, directory: str | os.PathLike) -> Any:
        """Write files into a directory, in formats that run no code when they are read (JSON, safetensors)."""
        ...

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> Any:
        """Read what :meth:`save_pretrained` wrote."""
        ...


class ResidualQuantizer(PreTrainedModel):
    """Codebooks [L, K, d] over residuals of a projection of the embeddings: the library's own quantizers.

    A subclass says how embeddings are projected to what is quantized, and back.
    """

    kind: ClassVar[str]
    base_model_prefix = "quantizer"
    main_input_name = "embeddings"
    codebooks: nn.Parameter
    config_rules: ClassVar[dict[str, Rule]] = {}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **options: Any) -> Any:
        """Read what ``save_pretrained`` wrote; a directory is checked before anything is built.

        Raises:
            DataError: a file of the directory is missing, damaged or doesn't fit its config.
        """
        folder = Path(pretrained_model_name_or_path)
        if args or "config" in options or not folder.is_dir():
            return super().from_pretrained(pretrained_model_name_or_path, *args, **options)
        largest = torch.finfo(torch.float32).max  # embeddings may be of any scale
        return load_model(cls, folder, SIZES, cls.config_rules, largest, **options)

    def project(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings [n, input_dim] to points [n, d], on the model's device."""
        raise NotImplementedError

    def reconstruct(self, points: torch.Tensor) -> torch.Tensor:
        """Points [n, d] back to embeddings [n, input_dim]."""
        raise NotImplementedError

    @property
    def input_dim(self) -> int:
        return self.config.input_dim

    @property
    def codebook_size(self) -> int:
        return self.config.codebook_size

    @torch.no_grad()
    def encode(self, embeddings: np.ndarray | torch.Tensor, batch_size: int = CHUNK) -> np.ndarray:
        """Codes of embeddings [n, input_dim]: int32 [n, L]. A row's codes depend on that row alone.

        Raises:
            DataError: another number of dimensions than was fitted, or NaN.
        """
        embeddings = check_embeddings(embeddings)
        check_dimensions(embeddings, self.input_dim)
        codes = []
        for start in range(0, len(embeddings), batch_size):
            points = self.project(torch.tensor(embeddings[start : start + batch_size], device=self.device))
            codes.append(nearest_codes(points, self.codebooks)[0].cpu())
        return torch.cat(codes).numpy().astype(np.int32)

    @torch.no_grad()
    def decode(self, codes: np.ndarray | torch.Tensor, batch_size: int = CHUNK) -> np.ndarray:
        """Reconstruct embeddings from codes int [n, L]: float32 [n, input_dim].

        Raises:
            DataError: another number of levels, or a code out of range.
        """
        codes = check_codes(codes, self.config.num_codebooks, self.codebook_size)
        vectors = [
            self.reconstruct(sum_of_codes(chunk.to(self.device), self.codebooks)).cpu()
            for chunk in codes.split(batch_size)
        ]
        return torch.cat(vectors).numpy()


def check_enough_items(embeddings: np.ndarray, codebook_size: int) -> None:
    """Raise an error if there are fewer distinct rows than codes per level.

    Raises:
        DataError: with both numbers and the remedy.
    """
    distinct = set()
    for row in embeddings:
        distinct.add(row.tobytes())
        if len(distinct) >= codebook_size:
            return
    raise DataError(
        f"{len(embeddings)} items have {len(distinct)} distinct embeddings, fewer than the {codebook_size} codes per "
        f"level. Give codebook_size={max(1, len(distinct) // 4)} or less, or more items."
    )


def check_dimensions(embeddings: np.ndarray, input_dim: int) -> None:
    """Raises:
    DataError: the embeddings have another width than the quantizer was fitted to.
    """
    if embeddings.shape[1] != input_dim:
        raise DataError(
            f"embeddings have {embeddings.shape[1]} dimensions, the quantizer was fitted to {input_dim}. "
            "Embed the items with the encoder that it was fitted with."
        )


def check_codes(codes: np.ndarray | torch.Tensor, num_codebooks: int, codebook_size: int) -> torch.Tensor:
    """Codes as int64 [n, L].

    Raises:
        DataError: another number of levels, or a code outside 0..codebook_size-1.
    """
    codes = torch.as_tensor(codes).long()
    if codes.ndim != 2 or codes.shape[1] != num_codebooks:
        raise DataError(f"codes must be [n, {num_codebooks}], got {list(codes.shape)}.")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < codebook_size:
        raise DataError(f"codes must be 0..{codebook_size - 1}, got {int(codes.min())}..{int(codes.max())}.")
    return codes
