"""A recommender as a directory: all its parts, written atomically, and read back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as save_arrays

from tiger.embeddings.auto import load_encoder
from tiger.rankers.auto import load_ranker, save_ranker
from tiger.recommender.manifest import MANIFEST, own_files, read_manifest, write_manifest
from tiger.recommender.state import RecommenderState
from tiger.retriever.model import TigerT5
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError
from tiger.utils.files import replaced_folder, write_atomically

TRIE = "trie.safetensors"
UNSEEN = "unseen.safetensors"
RANKER, ENCODER, ITEMS = "ranker", "encoder", "items.parquet"


def write_state(state: RecommenderState, folder: str | os.PathLike) -> None:
    """Write a directory. What it held before stays whole until the new one is; other files in it are kept."""
    with replaced_folder(folder, MANIFEST, ours=own_files) as fresh:
        state.model.save_pretrained(fresh)
        state.tokenizer.save_pretrained(fresh)
        state.trie_on(state.model.device).save(fresh / TRIE)
        if state.encoder is not None:
            state.encoder.save_pretrained(fresh / ENCODER)
        if state.items is not None:
            pq.write_table(state.items, fresh / ITEMS)
        if state.unseen.any():
            write_atomically(fresh / UNSEEN, save_arrays({"rows": np.flatnonzero(state.unseen)}))
        if state.ranker is not None:
            save_ranker(state.ranker, fresh / RANKER)
        write_manifest(fresh, state.tokenizer.fingerprint, state.max_history, state.training)


def read_state(folder: Path, device: str | torch.device = "cpu", rank: bool = True) -> RecommenderState:
    """Read what :func:`write_state` wrote.

    Args:
        device: of the model and the ranker.
        rank: read the ranker, where there is one.

    Raises:
        DataError: half-written, damaged, of another version, or its parts don't belong together.
    """
    manifest = read_manifest(folder)
    try:
        tokenizer = SemanticIdTokenizer.from_pretrained(folder)
        # Directories from before the trie was saved have none: it is built when it is needed.
        trie = SemanticIdTrie.load(folder / TRIE) if (folder / TRIE).exists() else None
        model = TigerT5.from_pretrained(folder, use_safetensors=True)
        encoder = load_encoder(folder / ENCODER) if (folder / ENCODER).is_dir() else None
        items = pq.read_table(folder / ITEMS) if (folder / ITEMS).exists() else None
        with_ranker = rank and (folder / RANKER).is_dir()
        ranker = load_ranker(folder / RANKER, tokenizer, items, device) if with_ranker else None
        unseen = _read_unseen(folder / UNSEEN, len(tokenizer))
        parts: dict[str, Any] = {"encoder": encoder, "items": items, "ranker": ranker, "unseen": unseen, "trie": trie}
        parts |= {name: manifest[name] for name in ("max_history", "training")}
        state = RecommenderState(model.eval(), tokenizer, **parts)
        state.check()
    except DataError:
        raise
    except (OSError, SafetensorError, json.JSONDecodeError, pa.ArrowInvalid) as error:
        raise DataError(f"{folder} can't be read ({error}). Save the recommender again.") from error
    except ValueError as error:
        raise DataError(f"{folder}: its parts come from different models ({error}). Save it again.") from error
    if tokenizer.fingerprint != manifest["semantic_ids"]:
        raise DataError(f"{folder}: semantic IDs and {MANIFEST} come from different models. Save it again.")
    model.to(device)  # type: ignore[arg-type]  # transformers hides that it is a method
    return state


def _read_unseen(file: Path, count: int) -> np.ndarray:
    """bool [count]; where nothing has been added since training, there is no such file."""
    unseen = np.zeros(count, dtype=bool)
    if file.exists():
        rows = load_file(file)["rows"]
        if rows.max(initial=-1) >= count:
            raise ValueError(f"{file.name} names row {rows.max()} of {count} items")
        unseen[rows] = True
    return unseen
