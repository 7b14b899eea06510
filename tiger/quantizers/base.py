"""What quantizers ask of embeddings and of codes."""

from __future__ import annotations

import numpy as np
import torch

from tiger.utils.errors import DataError


def check_enough_items(embeddings: np.ndarray, codebook_size: int) -> None:
    """Refuse fewer distinct rows than codes, which no codebook could use.

    Raises:
        DataError: with both numbers and the remedy.
    """
    distinct = set()
    for row in embeddings:
        distinct.add(row.tobytes())
        if len(distinct) >= codebook_size:
            return
    raise DataError(
        f"{len(embeddings)} items have {len(distinct)} distinct embeddings, fewer than the {codebook_size} codes of a "
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
