"""``tiger info``: what a saved recommender holds."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from tiger.cli.common import add_model_argument, load_recommender


def add_info_verb(verbs) -> None:
    """``tiger info``."""
    info = verbs.add_parser("info", help="what a recommender holds: items, codes, ranker, training, size, age")
    add_model_argument(info)
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=run_info)


def run_info(args: argparse.Namespace) -> None:
    from tiger.serving.model_source import ModelSource

    folder = ModelSource(args.model, args.revision).folder()
    # Loaded as for an answer: what is damaged is found here too.
    found = describe(load_recommender(str(folder)), folder, args.model)
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_short(part)}" for key, part in value.items())
        print(f"{name:>10}  {_short(value)}")


def describe(tiger, folder: Path, name: str) -> dict[str, Any]:
    """Facts of a recommender and its directory, in the order to be shown; ``name`` is what the user calls it."""
    from tiger.recommender.manifest import MANIFEST
    from tiger.serving.model_source import manifest_digest
    from tiger.utils.json_files import read_bytes

    tokenizer = tiger.tokenizer
    files = [file for file in folder.rglob("*") if file.is_file()]
    ids = tokenizer.item_ids[:2]
    return {
        "model": str(folder),
        "items": len(tokenizer),
        "added": int(tiger.unseen.sum()),
        "levels": f"{tokenizer.num_codebooks} of {tokenizer.codebook_size} codes",
        "tokens": _tokens(tiger),
        "T5": f"{tiger.model.num_parameters():,} parameters, histories of {tiger.max_history} items",
        "ranker": "none" if tiger.ranker is None else _ranker(tiger.ranker),
        "encoder": "none" if tiger.encoder is None else tiger.encoder.name,
        "training": _training(tiger.training),
        **_parent(tiger.training),
        "size": f"{sum(file.stat().st_size for file in files):,} bytes",
        "digest": manifest_digest(read_bytes(folder / MANIFEST)),
        # Of what came with the library, or from the Hub, files say when they were fetched.
        **(_age((folder / MANIFEST).stat().st_mtime) if Path(name).exists() else {}),
        "try": f"tiger recommend {name} --history {' '.join(ids)}",
    }


def _age(saved: float) -> dict[str, str]:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(saved))
    return {"saved": when, "age": f"{max(time.time() - saved, 0) / 86400:.1f} days"}


def _tokens(tiger) -> str:
    from tiger.retriever.config import retriever_config

    rows = retriever_config(tiger.model).hashed_rows
    hashed = f", {rows:,} of them hashed rows" if rows else ""
    return f"{tiger.tokenizer.tokens}, {tiger.model.config.vocab_size:,} in all{hashed}"


def _ranker(ranker) -> str:
    """Its kind and, where its record has it, how good it was on users held out."""
    held_out = (getattr(ranker, "record", None) or {}).get("held out ndcg@10")
    return ranker.kind + ("" if held_out is None else f", held out ndcg@10 {held_out}")


def _training(training: dict) -> dict[str, Any]:
    """The main entries of a training record."""
    from tiger.evaluation.training_split import counts_validation

    names = ("dataset", "split", "epochs", "steps", "seconds", "seed", "exclude_history")
    found = {name: training[name] for name in names if training.get(name) is not None}
    found |= {"counts": "with validation events"} if counts_validation(training) else {}
    return found | {name: value for name, value in training.items() if name.startswith("validation ") and value}


def _parent(training: dict) -> dict[str, Any]:
    """The parent that training went on from, and digests of both logs; empty where it started from nothing."""
    parent = training.get("parent")
    if not isinstance(parent, dict):
        return {}
    names = ("model", "fingerprint", "generation", "new_items")
    logs = {"its log": parent.get("data"), "log": training.get("data")}
    digests = {name: found["interactions"] for name, found in logs.items() if found and "interactions" in found}
    return {"parent": {name.replace("_", " "): parent[name] for name in names if name in parent} | digests}


def _short(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return f"{value:,}"
