"""A recommender as a directory: all its parts, written whole or not at all, and read back as what they were."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as save_arrays

from tiger.embeddings.auto import load_encoder
from tiger.rankers.click.ranker import CatalogueRanker
from tiger.rankers.two_stage.ranker import SETTINGS, TwoStageRanker
from tiger.recommender.manifest import MANIFEST, own_files, read_manifest, write_manifest
from tiger.retriever.model import TigerT5
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError
from tiger.utils.files import replaced_folder, write_atomically

if TYPE_CHECKING:
    from tiger.recommender.recommender import TigerRecommender

TRIE = "trie.safetensors"
UNSEEN = "unseen.safetensors"
RANKER = "ranker"


def write_recommender(recommender: TigerRecommender, folder: str | os.PathLike) -> None:
    """What was in the directory before stays whole until the new one is; files that no save wrote stay for good."""
    with replaced_folder(folder, MANIFEST, ours=own_files) as fresh:
        recommender.model.save_pretrained(fresh)
        recommender.tokenizer.save_pretrained(fresh)
        recommender.trie.save(fresh / TRIE)
        if recommender.encoder is not None:
            recommender.encoder.save_pretrained(fresh / "encoder")
        if recommender.items is not None:
            pq.write_table(recommender.items, fresh / "items.parquet")
        if recommender.unseen.any():
            write_atomically(fresh / UNSEEN, save_arrays({"rows": np.flatnonzero(recommender.unseen)}))
        if recommender.ranker is not None:
            recommender.ranker.save_pretrained(fresh / RANKER)
        write_manifest(fresh, recommender.tokenizer.fingerprint, recommender.max_history, recommender.training)


def read_parts(
    folder: Path, device: str | torch.device, rank: bool = True
) -> tuple[dict, SemanticIdTrie | None, list[int]]:
    """What :class:`tiger.TigerRecommender` is made from, by the names of its arguments; the trie, where one was saved;
    and the rows that training never saw. ``rank``: with its ranker, where there is one.

    Raises:
        DataError: half-written, damaged, or of another version.
    """
    manifest = read_manifest(folder)
    try:
        tokenizer = SemanticIdTokenizer.from_pretrained(folder)
        # Directories from before the trie was saved have none: it is built when it is needed.
        trie = SemanticIdTrie.load(folder / TRIE) if (folder / TRIE).exists() else None
        model = TigerT5.from_pretrained(folder, use_safetensors=True)
        encoder = load_encoder(folder / "encoder") if (folder / "encoder").is_dir() else None
        # Where nothing has been added since training, there is no such file.
        unseen = load_file(folder / UNSEEN)["rows"].tolist() if (folder / UNSEEN).exists() else []
        table = folder / "items.parquet"
        items = pq.read_table(table) if table.exists() else None
        with_ranker = rank and (folder / RANKER).is_dir()
        ranker = _load_ranker(folder / RANKER, tokenizer, items, device) if with_ranker else None
    except DataError:
        raise
    except (OSError, SafetensorError, json.JSONDecodeError, pa.ArrowInvalid) as error:
        raise DataError(f"{folder} can't be read ({error}). Save the recommender again.") from error
    except ValueError as error:
        raise DataError(f"{folder}: its parts come from different models ({error}). Save it again.") from error
    parts = {"model": model, "tokenizer": tokenizer, "encoder": encoder, "items": items, "ranker": ranker}
    return parts | {name: manifest[name] for name in ("max_history", "training")}, trie, unseen


def check_saved_together(
    folder: Path, tokenizer: SemanticIdTokenizer, trie: SemanticIdTrie | None, unseen: list[int]
) -> None:
    """
    Raises:
        DataError: the parts don't belong together.
    """
    count = len(tokenizer)
    fit = len(trie or tokenizer) == count and max(unseen, default=-1) < count
    if tokenizer.fingerprint != read_manifest(folder)["semantic_ids"] or not fit:
        raise DataError(f"{folder}: semantic IDs and {MANIFEST} come from different models. Save it again.")


def _load_ranker(
    folder: Path, tokenizer: SemanticIdTokenizer, items: pa.Table | None, device: str | torch.device
) -> CatalogueRanker | TwoStageRanker:
    if (folder / SETTINGS).exists():
        return TwoStageRanker.from_pretrained(folder, tokenizer, items)
    return CatalogueRanker.from_pretrained(folder, tokenizer, device)
