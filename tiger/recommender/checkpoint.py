"""A recommender as a directory: all its parts, written atomically, and read back."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save as save_arrays

from tiger.embeddings.auto import load_encoder
from tiger.embeddings.base import note_place
from tiger.rankers.auto import load_ranker, save_ranker
from tiger.recommender import custom_generate
from tiger.recommender.manifest import (
    MANIFEST,
    check_files,
    check_own_files,
    own_files,
    read_manifest,
    write_manifest,
)
from tiger.recommender.saved_items import read_items, read_unseen
from tiger.recommender.state import RecommenderState
from tiger.retriever.config import CONFIG_RULES, GENERATION_RULES, OPTIONAL_RULES
from tiger.retriever.layer_weights import refuse_wrapped_layers
from tiger.retriever.memory_file import read_memory, write_memory
from tiger.retriever.model import TigerT5
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError
from tiger.utils.files import replaced_folder, write_atomically
from tiger.utils.json_files import read_json
from tiger.utils.locks import read_unmixed
from tiger.utils.model_files import check_finite, load_model
from tiger.utils.schema import check_fields

TRIE = "trie.safetensors"
UNSEEN = "unseen.safetensors"
MEMORY = "memory.safetensors"
RANKER, ENCODER, ITEMS = "ranker", "encoder", "items.parquet"
GENERATION = "generation_config.json"
CUSTOM_GENERATE = "custom_generate/generate.py"  # where transformers looks for it


def check_weights(model: torch.nn.Module, problem: str) -> None:
    """Raise an error for weights that can't be saved.

    Raises:
        DataError: they are NaN or infinite, or adapters are not merged into them.
    """
    check_finite(model, problem)
    refuse_wrapped_layers(model, problem)


def write_state(state: RecommenderState, folder: str | os.PathLike) -> None:
    """Write a directory. What it held before stays whole until the new one is; other files in it are kept.

    Raises:
        DataError: the model's weights are NaN or infinite, or adapters are not merged into them.
        DiskError: the disk is full, read-only or denied.
    """
    check_weights(state.model, f"{folder} is not written")
    with replaced_folder(folder, MANIFEST, ours=own_files) as fresh:
        state.model.save_pretrained(fresh)
        state.tokenizer.save_pretrained(fresh)
        state.trie_on(state.model.device).save(fresh / TRIE)
        if state.encoder is not None:
            state.encoder.save_pretrained(fresh / ENCODER)
            note_place(fresh / ENCODER, Path(folder) / ENCODER)
        if state.items is not None:
            with disk_errors(folder, state.items.nbytes):
                pq.write_table(state.items, fresh / ITEMS)
        if state.unseen.any():
            write_atomically(fresh / UNSEEN, save_arrays({"rows": np.flatnonzero(state.unseen)}))
        if state.memory is not None:
            write_memory(state.memory, fresh / MEMORY)
        if state.ranker is not None:
            save_ranker(state.ranker, fresh / RANKER)
        write_manifest(fresh, state.tokenizer.fingerprint, state.max_history, state.training)
        # After the manifest: it is not read by a load, nor fetched from the Hub.
        (fresh / CUSTOM_GENERATE).parent.mkdir()
        write_atomically(fresh / CUSTOM_GENERATE, Path(custom_generate.__file__).read_text(encoding="utf-8"))


def read_state(
    folder: Path, device: str | torch.device = "cpu", rank: bool = True, verify: bool = False
) -> RecommenderState:
    """Read what :func:`write_state` wrote. What a save replaces meanwhile is read again, never mixed.

    Args:
        device: of the model and the ranker.
        rank: read the ranker, where there is one.
        verify: compare the files with the manifest first.

    Raises:
        DataError: half-written, damaged, of another version, or its parts don't belong together.
    """
    return read_unmixed(folder, lambda: _read_once(folder, device, rank, verify), _stamp)


def _stamp(folder: Path) -> tuple:
    """Stamp of a folder, another one after every save: of the folder itself and of its manifest."""
    try:
        there, manifest = os.stat(folder), os.stat(folder / MANIFEST)
        content = (folder / MANIFEST).read_bytes() if stat.S_ISREG(manifest.st_mode) else b""
    except OSError:
        return ()
    return there.st_ino, there.st_mtime_ns, manifest.st_ino, manifest.st_mtime_ns, content


def _read_once(folder: Path, device: str | torch.device, rank: bool, verify: bool) -> RecommenderState:
    manifest = read_manifest(folder)
    check_own_files(folder, manifest)
    if verify:
        check_files(folder, manifest)
    try:
        state = _read_parts(folder, manifest, device, rank)
    except (DataError, MemoryError):
        raise
    except ValueError as error:
        raise DataError(f"{folder}: its parts come from different models ({error}). Save it again.") from error
    except Exception as error:  # a stranger's files have met a part that trusts them
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{folder} can't be read ({type(error).__name__}: {reason}). Save it again.") from error
    if state.tokenizer.fingerprint != manifest["semantic_ids"]:
        raise DataError(f"{folder}: semantic IDs and {MANIFEST} come from different models. Save it again.")
    return state


def _read_parts(folder: Path, manifest: dict, device: str | torch.device, rank: bool) -> RecommenderState:
    tokenizer = SemanticIdTokenizer.from_pretrained(folder)
    # Directories from before the trie was saved have none: it is built when it is needed.
    trie = SemanticIdTrie.load(folder / TRIE) if (folder / TRIE).exists() else None
    if (folder / GENERATION).exists():
        check_fields(read_json(folder / GENERATION, max_bytes=1 << 20), {}, folder / GENERATION, **GENERATION_RULES)
    model = load_model(TigerT5, folder, CONFIG_RULES, OPTIONAL_RULES)
    encoder = load_encoder(folder / ENCODER) if (folder / ENCODER).is_dir() else None
    template = manifest["training"].get("template")
    items = read_items(folder / ITEMS, len(tokenizer), template) if (folder / ITEMS).exists() else None
    with_ranker = rank and (folder / RANKER).is_dir()
    ranker = load_ranker(folder / RANKER, tokenizer, items, device) if with_ranker else None
    unseen = read_unseen(folder / UNSEEN, len(tokenizer))
    parts: dict[str, Any] = {"encoder": encoder, "items": items, "ranker": ranker, "unseen": unseen, "trie": trie}
    parts["memory"] = read_memory(folder / MEMORY, len(tokenizer)) if (folder / MEMORY).exists() else None
    parts |= {name: manifest[name] for name in ("max_history", "training")}
    state = RecommenderState(model.eval(), tokenizer, **parts)
    state.check()
    if trie is not None:
        trie.check_table(tokenizer.token_table)
    model.to(device)
    return state
