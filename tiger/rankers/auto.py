"""Rankers by kind: save, load, and register new kinds."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import torch

from tiger.rankers.base import Ranker
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.disk import disk_errors
from tiger.utils.registry import Registry

KIND_FILE = "ranker.json"

RANKERS: Registry[Ranker] = Registry(
    "ranker",
    {
        "click": "tiger.rankers.click.ranker:ClickRanker",
        "two-stage": "tiger.rankers.two_stage.ranker:TwoStageRanker",
    },
)


def register_ranker(kind: type[Ranker]) -> type[Ranker]:
    """Register a ranker class under its ``kind``, for :func:`load_ranker`. Usable as a decorator."""
    RANKERS.register(kind.kind, kind)
    return kind


def save_ranker(ranker: Ranker, folder: str | os.PathLike) -> None:
    """Write a ranker and, as ``ranker.json``, its kind."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with disk_errors(folder):
        ranker.save_pretrained(folder)
    RANKERS.write_kind(Path(folder) / KIND_FILE, ranker.kind)


def load_ranker(
    folder: str | os.PathLike,
    tokenizer: SemanticIdTokenizer,
    items: pa.Table | None = None,
    device: str | torch.device = "cpu",
) -> Ranker:
    """Read what :func:`save_ranker` wrote; see :meth:`tiger.rankers.base.Ranker.from_pretrained`.

    Raises:
        DataError: its kind is unknown, or as the ranker's own ``from_pretrained``.
    """
    file = Path(folder) / KIND_FILE
    if file.exists():
        kind = RANKERS.read_kind(file)
    else:  # written before kinds were
        kind = "two-stage" if (Path(folder) / "two_stage.json").exists() else "click"
    return RANKERS.saved(kind, file).from_pretrained(folder, tokenizer, items, device)
