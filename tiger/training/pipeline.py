"""Everything for one dataset, in order: semantic IDs, T5, second stage, test results.

A *recipe* is a folder of YAML files, one per step; ``default`` and ``paper`` come with the library.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from transformers import TrainingArguments

from tiger.data.dataset import RecommendationData
from tiger.data.identity import data_digests, differing
from tiger.evaluation.evaluator import evaluate
from tiger.evaluation.training_split import split_of_model
from tiger.quantizers.report import REPORT
from tiger.rankers.two_stage.ranker import SETTINGS
from tiger.recommender.checkpoint import RANKER
from tiger.recommender.recommender import TigerRecommender
from tiger.training.arguments import as_words, known_keys, merged, read_arguments, read_yaml
from tiger.training.retriever import RetrieverArguments, train_retriever
from tiger.training.tokenizer import (
    TokenizerArguments,
    check_fitted_on,
    digests_of,
    embeddings_digest,
    train_tokenizer,
)
from tiger.training.two_stage import TwoStageArguments, train_two_stage
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically, written_whole

RECIPES = Path(__file__).parent / "recipes"
STEPS = {
    "tokenizer": "fitting the semantic IDs",
    "retriever": "training the T5",
    "two_stage": "training the second stage",
    "evaluate": "measuring on test items",
}
OPTIONAL = ("two_stage", "evaluate")  # a recipe may leave them out
RESULTS = "test.json"


@dataclass
class EvaluationArguments:
    """Settings of the last step; of a recipe's ``evaluate.yaml``, the rest is for ``recipes/evaluate.py``."""

    num_beams: int = field(default=50, metadata={"help": "beams of the T5, at least 10"})
    bf16: bool = field(default=True, metadata={"help": "decode in bfloat16"})


KINDS: dict[str, tuple[type, ...]] = {
    "tokenizer": (TokenizerArguments,),
    "retriever": (RetrieverArguments, TrainingArguments),
    "two_stage": (TwoStageArguments,),
}


@dataclass(frozen=True)
class Plan:
    """The steps to run for one dataset, and their settings.

    Args:
        recipe: folder of YAML files.
        out: where tokenizer, training, model and results go.
        settings: of every step, the recipe's and the caller's.
        processes: how many train the T5.
    """

    recipe: Path
    out: Path
    settings: dict[str, dict]
    processes: int = 1

    @property
    def steps(self) -> list[str]:
        """Names of the recipe's steps."""
        return [step for step in STEPS if step not in OPTIONAL or (self.recipe / f"{step}.yaml").exists()]

    @property
    def model(self) -> str:
        return str(self.settings["retriever"]["model_dir"])


def train(
    dataset: str | os.PathLike | RecommendationData | tuple[pa.Table, pa.Table],
    output_dir: str | os.PathLike,
    recipe: str | os.PathLike = "default",
    *,
    embeddings: str | os.PathLike | None = None,
    processes: int = 1,
    steps: Sequence[str] | None = None,
    **overrides: Mapping,
) -> TigerRecommender:
    """Train a recommender on a dataset; the recipe contains nothing that depends on the data.

    A call that was interrupted goes on where it was when it is made again: a finished tokenizer, T5 or second stage is
    left alone, and a killed training goes on from its last checkpoint.

    Args:
        dataset: a dataset directory, ``owner/name`` on the Hub, loaded data, or two tables, items and interactions,
            with the columns of a dataset directory. What is no path is written to ``output_dir/dataset`` first.
        output_dir: gets ``tokenizer``, ``training`` (checkpoints), ``model`` (the recommender) and ``test.json``.
        recipe: ``default``, ``paper`` (TIGER as published), or a folder with ``tokenizer.yaml``, ``retriever.yaml``
            and, if you like, ``two_stage.yaml`` and ``evaluate.yaml``.
        embeddings: a safetensors file of the items' vectors, in place of running the encoder.
        processes: that train the T5 and share its batch (one per GPU).
        steps: only these, of ``tokenizer``, ``retriever``, ``two_stage`` and ``evaluate``; None: all that the recipe
            has.
        overrides: other settings than the recipe's, a mapping per step.

    Returns:
        The recommender, read back from ``output_dir/model``.

    Raises:
        DataError: the dataset or a setting can't be used, or ``output_dir`` holds a run with other settings.
        FileExistsError: a folder that would be written holds something else.
        subprocess.CalledProcessError: one of several processes failed.

    Example::

        tiger = train("datasets/mine", "runs/mine", retriever={"seed": 1, "num_train_epochs": 5})
        items, scores = tiger.recommend([["item-1", "item-2"]], k=10)
    """
    merged([EvaluationArguments], overrides.get("evaluate", {}))  # unknown keys are refused before hours of training
    if not isinstance(dataset, str | os.PathLike):
        dataset = write_dataset(dataset, Path(output_dir) / "dataset")
    plan = make_plan(dataset, output_dir, recipe, embeddings=embeddings, processes=processes, overrides=overrides)
    steps = plan.steps if steps is None else list(steps)
    for number, step in enumerate(steps, 1):
        print(f"step {number} of {len(steps)}: {STEPS.get(step, step)}", flush=True)
        run_step(plan, step)
    return TigerRecommender.from_pretrained(plan.model, torch.accelerator.current_accelerator() or "cpu")


def make_plan(
    dataset: str | os.PathLike,
    output_dir: str | os.PathLike,
    recipe: str | os.PathLike = "default",
    *,
    embeddings: str | os.PathLike | None = None,
    processes: int = 1,
    overrides: Mapping[str, Mapping] | None = None,
) -> Plan:
    """Collect the settings of all steps; arguments as for :func:`train`.

    Raises:
        DataError: there is no such recipe or step, or a key is unknown.
    """
    folder, out = find_recipe(recipe), Path(output_dir)
    overrides = dict(overrides or {})
    if unknown := [step for step in overrides if step not in STEPS]:
        raise DataError(f"{unknown[0]!r} is not a step: settings are for {', '.join(STEPS)}.")
    data, model = str(dataset), str(out / "model")
    fixed: dict[str, dict] = {
        "tokenizer": {"dataset": data, "output_dir": str(out / "tokenizer")},
        "retriever": {
            "dataset": data,
            "tokenizer": str(out / "tokenizer"),
            "output_dir": str(out / "training"),
            "model_dir": model,
        },
        "two_stage": {"dataset": data, "recommender": model},
    }
    if embeddings is not None:
        for settings in fixed.values():
            settings["embeddings"] = str(embeddings)
    if processes > 1:
        batch = read_yaml(folder / "retriever.yaml").get("per_device_train_batch_size", 8)
        fixed["retriever"]["per_device_train_batch_size"] = batch // processes
    settings = {}
    for step, kinds in KINDS.items():
        file = folder / f"{step}.yaml"
        recipes = [] if step in OPTIONAL and not file.exists() else [file]
        settings[step] = merged(kinds, *recipes, fixed[step], overrides.get(step, {}))
    file = folder / "evaluate.yaml"
    settings["evaluate"] = (read_yaml(file) if file.exists() else {}) | dict(overrides.get("evaluate", {}))
    return Plan(folder, out, settings, processes)


def find_recipe(recipe: str | os.PathLike) -> Path:
    """Find a recipe's folder: by the name of one that comes with the library, or by its path.

    Raises:
        DataError: there is none.
    """
    names = sorted(folder.name for folder in RECIPES.iterdir() if folder.is_dir())
    if str(recipe) in names:
        return RECIPES / str(recipe)
    if not Path(recipe).is_dir():
        raise DataError(f"{recipe} is not a recipe: give a folder of YAML files, or one of {', '.join(names)}.")
    return Path(recipe)


def read_overrides(texts: Iterable[str]) -> dict[str, dict]:
    """Parse ``step.key=value`` from the command line into settings per step.

    Raises:
        DataError: one of them reads otherwise.
    """
    found: dict[str, dict] = {}
    for text in texts:
        place, _, value = text.partition("=")
        step, _, key = place.partition(".")
        if step not in STEPS or not key or not value:
            raise DataError(f"--set {text}: give step.key=value, the step one of {', '.join(STEPS)}.")
        found.setdefault(step, {})[key] = value
    return found


def run_step(plan: Plan, step: str) -> None:
    """Run one step, unless it was finished before with the same settings."""
    runs = {
        "tokenizer": _run_tokenizer,
        "retriever": _run_retriever,
        "two_stage": _run_two_stage,
        "evaluate": _run_evaluation,
    }
    if step not in runs:
        raise DataError(f"{step!r} is not a step: there are {', '.join(STEPS)}.")
    runs[step](plan)


def _run_tokenizer(plan: Plan) -> None:
    """Fit the tokenizer; its settings are kept beside it."""
    (args,) = read_arguments(KINDS["tokenizer"], plan.settings["tokenizer"])
    file, there = plan.out / "tokenizer.json", (plan.out / "tokenizer" / REPORT).exists()
    if there and file.exists() and _recorded(file) != args:
        raise DataError(f"{plan.out / 'tokenizer'} was fitted with other settings: remove it, or give another --out.")
    if there:
        data = RecommendationData.load(args.dataset)
        check_fitted_on(plan.out / "tokenizer", digests_of(args, data), args.dataset)
        print(f"{plan.out / 'tokenizer'} is there")
        return
    plan.out.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps({"settings": asdict(args)}, indent=1) + "\n")
    train_tokenizer(args)


def _recorded(file: Path) -> TokenizerArguments:
    """Read the settings that a tokenizer was fitted with; older versions recorded the YAML text and a command line."""
    record = json.loads(file.read_text())
    if "settings" in record:
        return read_arguments(KINDS["tokenizer"], record["settings"])[0]
    old = yaml.safe_load(record["recipe"]) or {}
    words = [word.removeprefix("--") for word in record["options"]]
    return read_arguments(KINDS["tokenizer"], old, dict(zip(words[::2], words[1::2])))[0]


def _run_retriever(plan: Plan) -> None:
    if plan.processes == 1:
        train_retriever(*read_arguments(KINDS["retriever"], plan.settings["retriever"]))
        return
    options = f"--multi_gpu --num_processes {plan.processes} --num_machines 1 --mixed_precision bf16"
    command = [sys.executable, "-m", "accelerate.commands.launch", *options.split()]
    command += ["--num_cpu_threads_per_process", "1", "--module", "tiger.training", "retriever"]
    try:
        output = sys.stdout.fileno()  # where prints of this process go, redirected or not
    except (AttributeError, OSError):
        output = None
    subprocess.run([*command, *as_words(plan.settings["retriever"])], check=True, stdout=output)


def _run_two_stage(plan: Plan) -> None:
    """Train the second stage; its settings are kept beside the model. A newly trained T5 has no second stage."""
    (args,) = read_arguments(KINDS["two_stage"], plan.settings["two_stage"])
    file = plan.out / "two_stage.json"
    digests = data_digests(RecommendationData.load(args.dataset)) | embeddings_digest(args.embeddings)
    record = {"settings": asdict(args), "data": digests}
    there = (Path(args.recommender) / RANKER / SETTINGS).exists()
    before = json.loads(file.read_text()) if there and file.exists() else {}
    if before.get("settings") == record["settings"] and not differing(before.get("data", {}), digests):
        print(f"{args.recommender} ranks with a second stage of these settings")
        return
    file.unlink(missing_ok=True)
    if train_two_stage(args) is not None:
        write_atomically(file, json.dumps(record, indent=1) + "\n")


def _run_evaluation(plan: Plan) -> None:
    known = known_keys([EvaluationArguments])
    settings = {key: value for key, value in plan.settings["evaluate"].items() if key in known}
    (args,) = read_arguments([EvaluationArguments], settings)
    metrics = measure(plan.model, plan.settings["retriever"]["dataset"], args)
    write_atomically(plan.out / RESULTS, json.dumps(metrics | asdict(args), indent=1) + "\n")
    print(", ".join(f"{name} {value:.4f}" if name != "users" else f"{value} users" for name, value in metrics.items()))


def measure(model: str, dataset: str, args: EvaluationArguments) -> dict[str, float]:
    """Measure a saved recommender on the last items of its dataset's users; also return the number of users."""
    tiger = TigerRecommender.from_pretrained(model, torch.accelerator.current_accelerator() or "cpu")
    data = RecommendationData.load(dataset)
    rows = tiger.tokenizer.rows(data.item_ids, missing=-1)
    split, _ = split_of_model(data, rows, tiger.training, dataset)
    recommend = partial(tiger.recommend_rows, num_beams=args.num_beams, progress=True)
    with torch.autocast(tiger.device.type, torch.bfloat16, enabled=args.bf16):
        found = evaluate(recommend, split.test_histories, split.test_targets)
    return {"users": len(split.test_targets)} | {name: round(value, 5) for name, value in found.metrics.items()}


def write_dataset(data: RecommendationData | tuple[pa.Table, pa.Table], folder: Path) -> Path:
    """Write data as a dataset directory, once: it stays if the same data comes again.

    Raises:
        DataError: the data can't be used, or ``folder`` holds other data.
    """
    if not isinstance(data, RecommendationData):
        items, interactions = (pa.table(table) for table in data)
        data = RecommendationData.from_tables(items, interactions, source="the tables")
    events = data.sequences
    log = {
        "user_id": data.user_ids.take(pa.array(np.repeat(np.arange(len(events)), events.lengths))),
        "item_id": data.items["item_id"].combine_chunks().take(pa.array(events.items)),
        "timestamp": events.timestamps,
        **data.extras,
    }
    tables = {"items": data.items, "interactions": pa.table(log)}
    files = {folder / f"{name}.parquet": table for name, table in tables.items()}
    if any(file.exists() and not pq.read_table(file).equals(table) for file, table in files.items()):
        raise DataError(f"{folder} holds other data: give another output_dir, or remove that one.")
    folder.mkdir(parents=True, exist_ok=True)
    for file, table in files.items():
        if not file.exists():
            with written_whole(file) as temporary:
                pq.write_table(table, temporary)
    return folder
