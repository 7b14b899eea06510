"""``semantic_ids.safetensors``: arrays of a tokenizer, its item ids and a header."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

FORMAT = 1
PREFIX_TABLE = "prefix_tokens"


def write_semantic_ids(file: Path, arrays: dict[str, np.ndarray], item_ids: list[str], header: dict) -> None:
    """Write arrays, item ids (as one text and the places where each ends) and a header of JSON."""
    text = "".join(item_ids).encode()
    ends = np.cumsum([len(item.encode()) for item in item_ids], dtype=np.int64)
    arrays = arrays | {"item_id_bytes": np.frombuffer(text, dtype=np.uint8), "item_id_ends": ends}
    # One key: a safetensors header with several writes them in an order that differs between processes.
    write_atomically(file, save(arrays, metadata={"tokenizer": json.dumps({"format": FORMAT} | header)}))


def read_semantic_ids(file: Path) -> tuple[dict[str, np.ndarray], list[str], dict]:
    """Read what :func:`write_semantic_ids` wrote.

    Raises:
        DataError: the file is cut short or of another version.
    """
    try:
        with safe_open(file, "np") as opened:
            header = json.loads((opened.metadata() or {}).get("tokenizer", "{}"))
            if header.get("format") != FORMAT:
                raise DataError(
                    f"{file} has format {header.get('format')}, this version of tiger reads {FORMAT}: "
                    "fit the tokenizer again or install the version that wrote it."
                )
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}
    except SafetensorError as error:
        raise DataError(f"{file} is damaged ({error}): restore it or fit the tokenizer again.") from error
    text, ends = arrays.pop("item_id_bytes").tobytes(), arrays.pop("item_id_ends").tolist()
    return arrays, [text[start:end].decode() for start, end in zip([0, *ends], ends)], header
