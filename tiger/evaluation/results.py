"""Results as rows of ``recipes/results/<dataset>/<model>.json``: made, averaged over seeds, printed and written."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tiger.data.splits import LeaveOneOut
from tiger.evaluation.baselines import Baseline, baseline_evaluations, fitted_baselines
from tiger.evaluation.evaluator import NextItemEvaluation, Stages, evaluate, evaluate_stages
from tiger.evaluation.metrics import METRICS
from tiger.evaluation.significance import bootstrap_interval, bootstrap_p
from tiger.evaluation.training_split import SUFFIX
from tiger.evaluation.transition_graph import transition_graph_evaluations
from tiger.utils.files import write_atomically

PER_USER = "by user"  # NDCG@10 of each user, in a row until means over seeds are taken


@dataclass(frozen=True)
class Measured:
    """Entries of a row of results other than metrics.

    Args:
        dataset: its name.
        part: ``test`` or ``valid``.
        shuffle_ties: the seed of the split, None: as published.
        seeds: of the model's training.
        encoder: that its codes come from.
        facts: other entries of a row, such as ``num_beams``.
        command: that makes the row; None: this process's command line.
    """

    dataset: str
    part: str = "test"
    shuffle_ties: int | None = None
    seeds: tuple = ()
    encoder: str | None = None
    facts: tuple[tuple[str, object], ...] = ()
    command: str | None = None

    def setting(self, exclude_history: bool) -> str:
        """``ties shuffled, history removed``, for instance."""
        ties = "as published" if self.shuffle_ties is None else "ties shuffled"
        history = "history removed" if exclude_history else "history kept"
        return ", ".join([ties, history] + ([] if self.part == "test" else [self.part]))

    def row(self, model: str, exclude_history: bool, metrics: dict[str, float], seconds: float) -> dict:
        """A row of a results file."""
        return {
            "dataset": self.dataset,
            "model": model,
            "setting": self.setting(exclude_history),
            "encoder": self.encoder,
            "seeds": list(self.seeds),
            "metrics": {name: round(float(metrics[name]), 5) for name in METRICS},
            "std": {},
            "seconds": round(seconds, 1),
            "hardware": f"{_machine()}, {torch.get_num_threads()} threads",
            "command": self.command or command_line(sys.argv),
        }


def _machine() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"


def command_line(argv: Sequence[str]) -> str:
    """Return a command line to be pasted into another checkout: paths below the working directory are relative."""
    here = f"{Path.cwd()}{os.sep}"
    words = []
    for word in argv:
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        words.append(f"{option}{equals}{value.removeprefix(here)}")
    return shlex.join(["python", *words])


def write_experiment(found: dict, dataset: str | os.PathLike, folder: str | os.PathLike) -> tuple[dict, Path]:
    """Write what an experiment has found so far: one that is stopped leaves it.

    Args:
        found: JSON values by name.
        dataset: directory that it was found on.
        folder: where ``<dataset>.json`` goes.

    Returns:
        The content of the file, which has hardware and command as well, and the path of the figure beside it.
    """
    content = {"dataset": Path(dataset).name, **found, "hardware": _machine(), "command": command_line(sys.argv)}
    file = Path(folder) / f"{content['dataset']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(content, indent=1) + "\n")
    return content, file.with_suffix(".png")


def baseline_results(
    measured: Measured,
    split: LeaveOneOut,
    texts: list[str],
    vectors: np.ndarray | None = None,
    only: Sequence[str] = (),
) -> list[dict]:
    """A row for each baseline, with the history removed and kept.

    Args:
        measured: what else a row says.
        split: a leave-one-out split.
        texts: one per item.
        vectors: content vectors, float [items, D]: the transition-graph heuristics, which read them, are measured too.
        only: names of the baselines that are measured; none: all.
    """
    rows = []
    for exclude_history in (True, False):
        found = baseline_evaluations(split, texts, measured.part, exclude_history=exclude_history, only=only)
        if vectors is not None:
            found |= transition_graph_evaluations(split, vectors, measured.part, exclude_history, only)
        for model, evaluation in found.items():
            rows.append(measured.row(model, exclude_history, evaluation.metrics, evaluation.seconds))
    return rows


def model_results(
    measured: Measured, stages: Stages, split: LeaveOneOut, texts: list[str] | None = None, alone: str | None = None
) -> tuple[list[dict], dict[str, NextItemEvaluation]]:
    """A row for each stage of a model, with the history removed and kept.

    Args:
        measured: what else a row says.
        stages: the model, see :data:`tiger.evaluation.evaluator.Stages`.
        split: a leave-one-out split.
        texts: one per item: the hybrid baseline is measured too and each user's difference to it is kept; of a stage
            whose counts hold validation events, that to a hybrid whose counts do.
        alone: name of the stage that the others are compared with, the retriever; None: the first.

    Returns:
        The rows, and the retriever's evaluation by setting.
    """
    histories, targets = split.part(measured.part)
    strongest: dict[bool, Baseline] = {}
    rows, first_stages = [], {}
    for exclude_history in (True, False):
        found = evaluate_stages(stages, split, measured.part, exclude_history=exclude_history)
        first = next(iter(found.values())) if alone is None else found[alone]
        first_stages[measured.setting(exclude_history)] = first
        bases: dict[bool, np.ndarray] = {}
        for model, evaluation in found.items():
            counted = SUFFIX in model
            if texts is not None and counted not in bases:
                if counted not in strongest:
                    events = split.test_histories if counted else split.train
                    *_, strongest[counted] = fitted_baselines(events, texts).values()
                base = evaluate(strongest[counted].recommend, histories, targets, (10,), exclude_history)
                bases[counted] = base.per_user["ndcg@10"]
            row = measured.row(model, exclude_history, evaluation.metrics, evaluation.seconds)
            own = evaluation.per_user["ndcg@10"]
            row[PER_USER] = own, bases.get(counted, own), first.per_user["ndcg@10"]
            rows.append(row | dict(measured.facts) | {"empty_places": evaluation.empty_places})
    return rows, first_stages


def mean_over_seeds(rows: list[dict]) -> list[dict]:
    """One row per model and setting: means over seeds, and their standard deviations.

    What is said of users is said of each user's mean over seeds. The given rows stay as they are.
    """
    merged = []
    for model, setting in dict.fromkeys((row["model"], row["setting"]) for row in rows):
        same = [row for row in rows if (row["model"], row["setting"]) == (model, setting)]
        per_user = [row[PER_USER] for row in same if PER_USER in row]
        values = {name: np.array([row["metrics"][name] for row in same]) for name in METRICS}
        spread = {name: round(float(found.std(ddof=1)), 5) for name, found in values.items()} if same[1:] else {}
        merged.append(
            {name: value for name, value in same[0].items() if name != PER_USER}
            | {
                "seeds": [seed for row in same for seed in row["seeds"]],
                "metrics": {name: round(float(found.mean()), 5) for name, found in values.items()},
                "std": spread,
                "seconds": round(sum(row["seconds"] for row in same), 1),
            }
        )
        if "empty_places" in same[0]:
            merged[-1]["empty_places"] = float(np.mean([row["empty_places"] for row in same]))
        if per_user:
            hybrid = f"hybrid{SUFFIX}" if SUFFIX in model else "the hybrid"
            own, base, first = np.mean(per_user, axis=0)
            merged[-1]["over users"] = _compared(own, base, first, hybrid)
    return merged


def _compared(own: np.ndarray, hybrid: np.ndarray, first: np.ndarray, name: str) -> dict:
    """NDCG@10 of each user with 95% of its resampled means, and the gain over other models where they differ.

    Args:
        own, hybrid, first: float [users], of the model, of the hybrid and of the retriever.
        name: of the hybrid.
    """
    found: dict = {"interval of ndcg@10": [round(value, 5) for value in bootstrap_interval(own)]}
    for rival, other in ((name, hybrid), ("the T5", first)):
        if not np.array_equal(own, other):
            found[f"more than {rival}, ndcg@10"] = round(float((own - other).mean()), 5)
            found[f"p against {rival}"] = bootstrap_p(own - other)
    return found


def results_table(rows: Sequence[dict]) -> str:
    """Rows as text, the best NDCG@10 last within each setting."""
    lines = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        header = "  " + "model".ljust(16) + "".join(f"{metric:>11}" for metric in METRICS)
        lines += ["", f"{rows[0]['dataset']}, {setting}", header]
        same = [row for row in rows if row["setting"] == setting]
        for row in sorted(same, key=lambda row: row["metrics"]["ndcg@10"]):
            values = "".join(f"{row['metrics'][metric]:>11.4f}" for metric in METRICS)
            lines.append("  " + row["model"].ljust(16) + values)
    return "\n".join(lines + [""])


def write_results(rows: Sequence[dict], folder: str | os.PathLike) -> None:
    """Write a file per model. Rows of other settings that a file holds already stay in it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for model in dict.fromkeys(row["model"] for row in rows):
        file = Path(folder) / f"{model}.json"
        new = [row for row in rows if row["model"] == model]
        before = json.loads(file.read_text()) if file.exists() else []
        kept = [row for row in before if row["setting"] not in {row["setting"] for row in new}]
        write_atomically(file, json.dumps(new + kept, indent=1) + "\n")
