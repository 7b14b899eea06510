"""Train several recipes at a time on one accelerator, and say how each of them does.

    python recipes/paper/runs.py recipes/paper/sweep.yaml --out runs/paper/sweep [--at_once 8] [--seconds 500]

The YAML file names runs. Each has a ``set`` (a folder of recipes beside this file), and settings of
``recipes/retriever.py`` that differ from that folder's; ``common`` holds settings for all of them. A small model
leaves most of a large GPU idle, so that many processes train in little more time than one. What a run prints goes to
``OUT/<run>/log.txt``; validation metrics by epoch of all runs to ``OUT/curves.json``. A run with ``evaluate: true`` is
measured on test when it has finished; ``--evaluate_best`` measures, when all have ended, the one run of each set that
did best on validation. ``parts`` names the datasets that a run's own was made of by ``recipes/paper/together.py``: it
is measured on the users of each. Settings and parameters of all runs go to ``OUT/facts.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from tiger.recommender.manifest import MANIFEST, read_manifest
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

HERE = Path(__file__).parent
RECIPES = HERE.parent


class Run:
    """One training, and what follows it.

    Args:
        name: of its folder under ``out``.
        settings: of the YAML file, those for all runs included.
        overlays: YAML files read after the data set's own.
    """

    def __init__(self, name: str, settings: dict, out: Path, overlays: list[str]):
        settings = dict(settings)
        self.name, self.folder = name, out / name
        self.set, evaluate = settings.pop("set"), settings.pop("evaluate", False)
        self._parts = settings.pop("parts", [])
        self.settings = dict(settings)
        self._dataset = settings.pop("dataset", f"datasets/{self.set}")
        tokenizer = settings.pop("tokenizer", f"runs/paper/{self.set}/tokenizer")
        recipe = settings.pop("recipe", f"{HERE}/{self.set}/retriever.yaml")
        words = {"dataset": self._dataset, "tokenizer": tokenizer, "output_dir": self.folder / "training"}
        words |= {"model_dir": self.folder / "model"} | settings
        self._commands = [
            [f"{RECIPES}/retriever.py", recipe, *overlays, *(w for k, v in words.items() for w in (f"--{k}", str(v)))]
        ]
        if evaluate:
            self.evaluate()
        self.process: subprocess.Popen | None = None
        self.failed = False
        self._log = None

    def evaluate(self) -> None:
        """Measure the model on test, when what is running has ended; once."""
        if any(self.folder.glob("results/**/*.json")):
            return
        if self._parts:
            self._commands.append(
                [f"{HERE}/together.py", "evaluate", "--sets", *self._parts, "--dataset", self._dataset]
                + ["--model", f"{self.folder}/model", "--results_dir", f"{self.folder}/results"]
            )
            return
        self._commands.append(
            [f"{RECIPES}/evaluate.py", "--dataset", self._dataset, "--models", f"{self.folder}/model"]
            + ["--results_dir", f"{self.folder}/results", "--ranks_dir", f"{self.folder}/ranks"]
            + ["--name", "tiger-paper", "--baselines", "false"]
        )

    def advance(self) -> bool:
        """Start what comes next if nothing is running; whether there is anything left to wait for."""
        if self.process is not None and self.process.poll() is None:
            return True
        if self.process is not None and self.process.returncode:
            self.failed = True
            return False
        if not self._commands:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = self._log or open(self.folder / "log.txt", "ab")
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "OMP_WAIT_POLICY": "passive"}
        command = [sys.executable, *self._commands.pop(0)]
        self.process = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, env=os.environ | threads, start_new_session=True
        )
        return True

    def curve(self) -> list[dict]:
        """Validation metrics so far, by epoch, of the last checkpoint's record."""
        files = sorted(self.folder.glob("training/checkpoint-*/trainer_state.json"), key=lambda f: f.stat().st_mtime)
        history = json.loads(files[-1].read_text())["log_history"] if files else []
        names = ("epoch", "step", "eval_loss", "eval_recall@10", "eval_ndcg@10", "loss")
        return [{name: row[name] for name in names if name in row} for row in history]

    def facts(self) -> dict:
        """Its settings, and the number of parameters of a model that has been saved."""
        found = {"set": self.set, "settings": self.settings}
        if (self.folder / "model" / MANIFEST).exists():
            found["parameters"] = read_manifest(self.folder / "model")["training"].get("parameters")
        return found

    def stop(self) -> None:
        """End it where it stands; its best checkpoint stays."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self._commands.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, help="YAML file of runs")
    parser.add_argument("--out", type=Path, required=True, help="folder for all of them")
    parser.add_argument("--overlay", nargs="*", default=[], help="YAML files after each recipe, as recipes/gpu.yaml")
    parser.add_argument("--only", nargs="+", help="names of runs; default: all")
    parser.add_argument("--at_once", type=int, default=8, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="then stop what still runs")
    parser.add_argument("--evaluate_best", action="store_true", help="measure the best run of each set on test")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings for all runs")
    args = parser.parse_args()
    runs = read_runs(args)
    work(runs, args.at_once, args.seconds)
    if args.evaluate_best:
        finished = [run for run in runs if (run.folder / "model" / MANIFEST).exists()]
        chosen = [
            max((run for run in finished if run.set == name), key=best)
            for name in sorted({run.set for run in finished})
        ]
        for run in chosen:
            run.evaluate()
        work(chosen, args.at_once, float("inf"))
        write_atomically(args.out / "best.txt", "".join(f"{run.name}\n" for run in chosen))
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out / "curves.json", json.dumps({run.name: run.curve() for run in runs}) + "\n")
    write_atomically(args.out / "facts.json", json.dumps({run.name: run.facts() for run in runs}) + "\n")
    for run in runs:
        print(f"{run.name:32s} best validation ndcg@10 {best(run):.5f}  {last(run)}")
        for file in sorted(run.folder.glob("results/**/*.json")):
            for row in json.loads(file.read_text()):
                print(f"    {row['setting']}: {row['metrics']}")
    if any(run.failed for run in runs):
        failed = next(run for run in runs if run.failed)
        print((failed.folder / "log.txt").read_text(errors="replace")[-3000:])
        sys.exit(1)


def work(runs: list[Run], at_once: int, seconds: float) -> None:
    """Run what the runs have to do, so many of them at a time; stop after so many seconds."""
    waiting, working = list(runs), []
    began = said = time.monotonic()
    while waiting or working:
        while waiting and len(working) < at_once:
            working.append(waiting.pop(0))
        for run in [run for run in working if not run.advance()]:
            working.remove(run)
            print(f"{time.monotonic() - began:6.0f} s  {run.name} {'FAILED' if run.failed else 'done'}", flush=True)
        now = time.monotonic()
        if now - said > 30:
            said = now
            print(f"{now - began:6.0f} s  " + "; ".join(f"{run.name} {last(run)}" for run in working), flush=True)
        if now - began > seconds:
            for run in working:
                run.stop()
                print(f"{now - began:6.0f} s  {run.name} stopped", flush=True)
            break
        time.sleep(0.5)


def read_runs(args: argparse.Namespace) -> list[Run]:
    """The runs of the YAML file, with what the command line adds.

    Raises:
        DataError: it is no such file, or names no such run.
    """
    content = yaml.safe_load(args.runs.read_text())
    if not isinstance(content, dict):
        raise DataError(f"{args.runs} must hold a mapping of runs.")
    common, given = content.pop("common", {}), dict(text.split("=", 1) for text in args.set)
    if unknown := sorted(set(args.only or ()) - set(content)):
        raise DataError(f"{args.runs} has no run {', '.join(unknown)}; there are {', '.join(content)}.")
    return [Run(name, common | content[name] | given, args.out, args.overlay) for name in args.only or content]


def last(run: Run) -> str:
    rows = [row for row in run.curve() if "eval_ndcg@10" in row]
    return f"epoch {rows[-1]['epoch']:.0f} {rows[-1]['eval_ndcg@10']:.4f}" if rows else "-"


def best(run: Run) -> float:
    return max((row["eval_ndcg@10"] for row in run.curve() if "eval_ndcg@10" in row), default=float("nan"))


if __name__ == "__main__":
    main()
