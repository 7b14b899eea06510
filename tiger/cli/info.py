"""``tiger info``: what a saved recommender holds."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from tiger.cli.common import load_recommender


def add_info_verb(verbs) -> None:
    """``tiger info``."""
    info = verbs.add_parser("info", help="what a recommender holds: items, codes, ranker, training, size, age")
    info.add_argument("model", metavar="RUN_OR_REPO", help="a run's folder, owner/name on the Hub, or demo")
    info.add_argument("--revision", help="branch, tag or commit on the Hub")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=run_info)


def run_info(args: argparse.Namespace) -> None:
    from tiger.recommender import hub
    from tiger.recommender.manifest import find_folder
    from tiger.utils.paths import is_repo_id

    folder = find_folder(args.model)
    if not folder.is_dir() and is_repo_id(args.model):
        folder = hub.download(args.model, args.revision)
    # Loaded as for an answer: what is damaged is found here too.
    found = describe(load_recommender(str(folder)), folder)
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_short(part)}" for key, part in value.items())
        print(f"{name:>10}  {_short(value)}")


def describe(tiger, folder: Path) -> dict[str, Any]:
    """Facts of a recommender and its directory, in the order to be shown."""
    from tiger.recommender.manifest import MANIFEST
    from tiger.utils.digests import sha256

    tokenizer, training = tiger.tokenizer, tiger.training
    ranker = tiger.ranker
    files = [file for file in folder.rglob("*") if file.is_file()]
    saved = (folder / MANIFEST).stat().st_mtime
    ids = tokenizer.item_ids[:2]
    found: dict[str, Any] = {
        "model": str(folder),
        "items": len(tokenizer),
        "added": int(tiger.unseen.sum()),
        "levels": f"{tokenizer.num_codebooks} of {tokenizer.codebook_size} codes",
        "tokens": f"{tokenizer.tokens}, {tiger.model.config.vocab_size:,} in all",
        "T5": f"{tiger.model.num_parameters():,} parameters, histories of {tiger.max_history} items",
        "ranker": "none" if ranker is None else ranker.kind,
        "encoder": "none" if tiger.encoder is None else tiger.encoder.name,
        "training": _training(training),
        "size": f"{sum(file.stat().st_size for file in files):,} bytes",
        "digest": sha256(folder / MANIFEST)[:16],
        "saved": time.strftime("%Y-%m-%d %H:%M", time.localtime(saved)),
        "age": f"{max(time.time() - saved, 0) / 86400:.1f} days",
        "try": f"tiger recommend {folder} --history {' '.join(ids)}",
    }
    if ranker is not None and getattr(ranker, "record", None):
        record = ranker.record
        found["ranker"] += f", held out ndcg@10 {record['held out ndcg@10']}" if "held out ndcg@10" in record else ""
    return found


def _training(training: dict) -> dict[str, Any]:
    """The main entries of a training record."""
    names = ("dataset", "epochs", "steps", "seconds", "seed", "exclude_history")
    found = {name: training[name] for name in names if training.get(name) is not None}
    return found | {name: value for name, value in training.items() if name.startswith("validation ") and value}


def _short(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return f"{value:,}"
