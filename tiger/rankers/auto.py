"""Rankers by kind: save, load, and register new kinds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import torch

from tiger.rankers.base import Ranker
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically
from tiger.utils.json_files import read_json
from tiger.utils.registry import Registry
from tiger.utils.schema import check_fields, text

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
    ranker.save_pretrained(folder)
    write_atomically(Path(folder) / KIND_FILE, json.dumps({"kind": ranker.kind}) + "\n")


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
        saved = read_json(file)
        check_fields(saved, {"kind": text(100)}, file)
        kind = saved["kind"]
    else:  # written before kinds were
        kind = "two-stage" if (Path(folder) / "two_stage.json").exists() else "click"
    if kind not in RANKERS:
        raise DataError(f"{file}: unknown kind {kind!r}. Import the module that registers it, or update the library.")
    return RANKERS[kind].from_pretrained(folder, tokenizer, items, device)
