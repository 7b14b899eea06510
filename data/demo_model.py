"""The finished recommender of a small made-up shop that comes with the library, as ``demo``.

    python data/demo_model.py [--out tiger/demo_model]

Trained on ``data/demo.py`` with fewer items, and with a T5 small enough to lie in a package: under a megabyte in all.
``tiger recommend demo``, ``tiger app demo``, ``tiger serve demo`` and ``TigerRecommender.from_pretrained("demo")``
read it. To be made again when the format of saved recommenders changes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from demo import write_demo

from tiger.training.pipeline import train

NUM_ITEMS, NUM_USERS = 400, 4_000
MAX_BYTES = 1_000_000
SETTINGS: dict[str, dict] = {
    "tokenizer": {"embedding_dim": 32, "codebook_size": 32},
    "retriever": {
        **{"d_model": 48, "d_kv": 24, "num_heads": 2, "d_ff": 96, "num_layers": 2, "dropout_rate": 0.05},
        **{"num_train_epochs": 12, "min_steps": 0, "eval_users": 1000, "report_to": "none", "logging_steps": 20},
        "memory": False,  # larger than the T5
    },
}


def make(out: Path) -> None:
    """Train the recommender and put it into ``out``, without a second stage, whose counts are larger than the T5."""
    out, before = out.resolve(), Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # so that what is recorded names no folder of this machine
        try:
            write_demo("datasets/demo", NUM_ITEMS, NUM_USERS, seed=0)
            train("datasets/demo", "runs/demo", steps=["tokenizer", "retriever"], **SETTINGS)
            size = sum(file.stat().st_size for file in Path("runs/demo/model").rglob("*") if file.is_file())
            if size > MAX_BYTES:
                raise ValueError(f"{size:,} bytes are more than a package should carry ({MAX_BYTES:,})")
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree("runs/demo/model", out)
        finally:
            os.chdir(before)
    print(f"{out}: {size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the recommender that comes with the library.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tiger" / "demo_model")
    make(parser.parse_args().out)


if __name__ == "__main__":
    main()
