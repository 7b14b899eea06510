"""Everything for one dataset, in order: semantic IDs, T5, second stage, test results.

    python recipes/pipeline.py recipes/default --dataset datasets/mine --out runs/mine

As ``tiger train``, whose recipes ``default`` and ``paper`` may be named too (``recipes/default`` is a link to the
first), but the results are those of ``recipes/evaluate.py``, beside the baselines. Each step has the YAML of its name
from the folder; ``--set retriever.seed=1`` changes a setting. A finished tokenizer, T5 or second stage is left alone,
and a killed training goes on; results are made anew. ``--processes 2`` trains the T5 with that many processes, which
share its batch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tiger.cli.common import friendly_errors
from tiger.evaluation.results import command_line
from tiger.training.arguments import as_words
from tiger.training.pipeline import run_step
from tiger.training.plan import STEPS, Plan, check_settings, make_plan, read_overrides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "recipes", help="a folder of YAML files, one per step, or the name of a recipe of the library's"
    )
    parser.add_argument("--dataset", required=True, help="dataset directory")
    parser.add_argument("--out", type=Path, required=True, help="where tokenizer, training, model and results go")
    parser.add_argument("--encoder", help="a SentenceTransformer, or lsa; default: as the YAML has it")
    parser.add_argument("--embeddings", help="content vectors of all items, in place of running the encoder")
    parser.add_argument("--processes", type=int, default=1, help="that train the T5")
    parser.add_argument(
        "--steps", nargs="+", choices=tuple(STEPS), help="only these; default: all that the recipe has"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="STEP.KEY=VALUE", help="further settings"
    )
    args = parser.parse_args()
    with friendly_errors():
        given = read_overrides(args.set)
        if args.encoder:
            given["tokenizer"] = {"encoder": args.encoder} | given.get("tokenizer", {})
        plan = make_plan(
            args.dataset,
            args.out,
            args.recipes,
            embeddings=args.embeddings,
            processes=args.processes,
            overrides=given,
        )
        check_settings(plan, args.steps or plan.steps)
        try:
            for step in args.steps or plan.steps:
                if step == "evaluate":
                    whole = args.steps is None or set(args.steps) >= set(plan.steps)
                    command = {"command": recorded_command(args)} if whole else {}
                    evaluate(plan, args.dataset, command | given.get("evaluate", {}))
                else:
                    run_step(plan, step)
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)


def evaluate(plan: Plan, dataset: str, given: dict) -> None:
    """Test results beside the baselines."""
    settings = {"dataset": dataset, "models": plan.model, "results_dir": plan.out / "results"} | given
    script = Path(__file__).parent / "evaluate.py"
    subprocess.run([sys.executable, script, plan.recipe / "evaluate.yaml", *as_words(settings)], check=True)


def recorded_command(args: argparse.Namespace) -> str:
    """The command line that makes the rows and the model that they are of; all steps have just been taken by it."""
    words = [sys.argv[0], args.recipes, "--dataset", args.dataset, "--out", str(args.out)]
    for name in ("encoder", "embeddings"):
        words += [f"--{name}", getattr(args, name)] if getattr(args, name) else []
    words += ["--processes", str(args.processes)] if args.processes > 1 else []
    return command_line([*words, *(["--set", *args.set] if args.set else [])])


if __name__ == "__main__":
    main()
