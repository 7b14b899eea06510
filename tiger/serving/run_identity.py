"""Identities of a log and of a recommender, by which a run that is resumed knows that both are what they were."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import torch

from tiger.recommender.manifest import read_manifest
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.memory_file import memory_bytes
from tiger.utils.digests import file_digests

# Files and folders of a recommender that no answer depends on.
_SILENT = ("README.md", "encoder", "quantizer", "custom_generate")


def log_identity(log: Path) -> dict:
    """A log's name, size, time of change and number of events."""
    found = log.stat()
    events = pq.read_metadata(log).num_rows
    return {"file": log.name, "bytes": found.st_size, "changed": found.st_mtime_ns, "events": events}


def saved_identity(folder: Path) -> str:
    """Identity of a saved recommender by its manifest, which holds the digests of its files: no model is loaded.

    Raises:
        DataError: there is no manifest, or it is damaged.
    """
    manifest = read_manifest(folder)
    files = manifest.get("files") or file_digests(folder, lambda name: name != "tiger.json")
    told = {name: digest for name, digest in files.items() if Path(name).parts[0] not in _SILENT}
    told["max_history"] = manifest["max_history"]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def identity_in_memory(tiger: TigerRecommender) -> str:
    """Identity of a recommender in memory: a digest of its catalog, of all weights, of its memory and of all
    trees."""
    digest = hashlib.sha256(tiger.tokenizer.semantic_ids.tobytes() + tiger.unseen.tobytes())
    digest.update("\0".join(tiger.tokenizer.item_ids).encode())
    for weights in tiger.model.state_dict().values():
        digest.update(weights.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    if tiger.memory is not None:
        digest.update(memory_bytes(tiger.memory))
    if tiger.ranker is not None:
        digest.update(tiger.ranker.digest())
    return digest.hexdigest()[:16]
