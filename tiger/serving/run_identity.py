"""Identities of a log and of a recommender, by which a run that is resumed knows that both are what they were."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel

from tiger.recommender.manifest import read_manifest
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.memory_file import memory_bytes
from tiger.utils.digests import file_digests

# Files and folders of a recommender that no answer depends on.
_SILENT = ("README.md", "encoder", "quantizer", "custom_generate")

# Fields of a model's config that its answers don't depend on; its weights tell their type.
_NOT_OF_ANSWERS = ("architectures", "transformers_version", "dtype", "torch_dtype", "use_cache")


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
    """Identity of a recommender in memory: a digest of all that decides its answers.

    That is its catalog and how many items of a history are read, the T5's config and weights, the memory and the
    ranker (:meth:`tiger.rankers.base.Ranker.digest`). It takes seconds where these take gigabytes.
    """
    state = tiger.state
    digest = hashlib.sha256(state.tokenizer.semantic_ids.tobytes() + state.unseen.tobytes())
    digest.update("\0".join(state.tokenizer.item_ids).encode())
    told = {"tokens": state.tokenizer.tokens, "codebook_size": state.tokenizer.codebook_size}
    told |= {"max_history": state.max_history, "ranker": None if state.ranker is None else state.ranker.kind}
    digest.update(json.dumps(told | {"config": _config(state.model)}, sort_keys=True, default=str).encode())
    for name, weights in state.model.state_dict().items():
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    if state.memory is not None:
        digest.update(memory_bytes(state.memory))
    if state.ranker is not None:
        digest.update(state.ranker.digest())
    return digest.hexdigest()[:16]


def _config(model: PreTrainedModel) -> dict:
    """A model's config but for where it came from and who wrote it."""
    config = model.config.to_dict()
    return {name: value for name, value in config.items() if name not in _NOT_OF_ANSWERS and name[0] != "_"}
