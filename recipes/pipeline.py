"""Everything for one dataset, in order: semantic IDs, T5, second stage, test results.

    python recipes/pipeline.py recipes/default --dataset datasets/mine --out runs/mine

Each step is a recipe of its own, with the YAML of that name from the folder; ``--set retriever.seed=1`` changes a
setting. A finished tokenizer and T5 are left alone, and a killed training goes on; the rest is made anew.
``--processes 2`` trains the T5 with that many processes, which share its batch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import yaml

from tiger.cli.common import friendly_errors
from tiger.quantizers.report import REPORT
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

RECIPES = Path(__file__).parent
STEPS = ("tokenizer", "retriever", "two_stage", "evaluate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipes", type=Path, help="a folder of YAML files, one a step")
    parser.add_argument("--dataset", required=True, help="dataset directory")
    parser.add_argument("--out", type=Path, required=True, help="where tokenizer, training, model and results go")
    parser.add_argument("--encoder", help="a SentenceTransformer, or lsa; default: as the YAML has it")
    parser.add_argument("--embeddings", help="content vectors of all items, in place of running the encoder")
    parser.add_argument("--processes", type=int, default=1, help="that train the T5")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="only these")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="STEP.KEY=VALUE", help="further settings"
    )
    args = parser.parse_args()
    with friendly_errors():
        settings = fixed_settings(args)
        for text in args.set:
            place, _, value = text.partition("=")
            step, _, key = place.partition(".")
            if step not in STEPS or not key or not value:
                raise DataError(f"--set {text}: give step.key=value, the step one of {', '.join(STEPS)}.")
            settings[step][key] = value
        for step in args.steps:
            words = [word for key, value in settings[step].items() for word in (f"--{key}", str(value))]
            if step == "tokenizer" and already_fitted(args, words):
                print(f"{args.out / 'tokenizer'} is there")
                continue
            done = subprocess.run([*launcher(args, step), str(args.recipes / f"{step}.yaml"), *words])
            if done.returncode:
                sys.exit(done.returncode)


def fixed_settings(args: argparse.Namespace) -> dict[str, dict]:
    """What each step is told of the others."""
    data, model, out = args.dataset, args.out / "model", args.out
    settings: dict[str, dict] = {
        "tokenizer": {"dataset": data, "output_dir": out / "tokenizer"},
        "retriever": {
            "dataset": data,
            "tokenizer": out / "tokenizer",
            "output_dir": out / "training",
            "model_dir": model,
        },
        "two_stage": {"dataset": data, "recommender": model},
        "evaluate": {"dataset": data, "models": model, "results_dir": out / "results"},
    }
    if args.encoder:
        settings["tokenizer"]["encoder"] = args.encoder
    if args.embeddings:
        for step in ("tokenizer", "retriever", "two_stage"):
            settings[step]["embeddings"] = args.embeddings
    if args.processes > 1:
        recipe = yaml.safe_load((args.recipes / "retriever.yaml").read_text())
        settings["retriever"]["per_device_train_batch_size"] = recipe["per_device_train_batch_size"] // args.processes
    return settings


def already_fitted(args: argparse.Namespace, words: list[str]) -> bool:
    """Whether the tokenizer is there; what it was asked for is kept beside it.

    Raises:
        DataError: it was fitted with other settings.
    """
    asked = {"recipe": (args.recipes / "tokenizer.yaml").read_text(), "options": words}
    file, there = args.out / "tokenizer.json", (args.out / "tokenizer" / REPORT).exists()
    if there and file.exists() and json.loads(file.read_text()) != asked:
        raise DataError(f"{args.out / 'tokenizer'} was fitted with other settings: remove it, or give another --out.")
    if not there:
        args.out.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(asked, indent=1) + "\n")
    return there


def launcher(args: argparse.Namespace, step: str) -> list[str]:
    """What starts a step's script."""
    script = str(RECIPES / f"{step}.py")
    if step != "retriever" or args.processes == 1:
        return [sys.executable, script]
    options = f"--multi_gpu --num_processes {args.processes} --num_machines 1 --mixed_precision bf16"
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *(*options.split(), "--num_cpu_threads_per_process", "1", script),
    ]


if __name__ == "__main__":
    main()
