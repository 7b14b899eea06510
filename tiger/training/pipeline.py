"""Everything for one dataset, in order: semantic IDs, T5, second stage, test results, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tiger.data.dataset import RecommendationData
from tiger.data.hub_data import pair_of_tables
from tiger.data.identity import data_digests, differing, table_digest
from tiger.data.splits import ALL, LEAVE_ONE_OUT
from tiger.quantizers.report import REPORT
from tiger.rankers.two_stage.ranker import SETTINGS
from tiger.recommender.checkpoint import RANKER
from tiger.recommender.manifest import MANIFEST, read_manifest
from tiger.recommender.recommender import TigerRecommender
from tiger.training.arguments import as_words, merged, read_arguments
from tiger.training.evaluation import EvaluationArguments, measure
from tiger.training.learning import check_enough
from tiger.training.output_folder import training_into
from tiger.training.parent import parent_digest
from tiger.training.plan import (
    KINDS,
    STEPS,
    Plan,
    Start,
    check_settings,
    make_plan,
    steps_of,
)
from tiger.training.plan import find_recipe as find_recipe  # also known by this module
from tiger.training.plan import read_overrides as read_overrides
from tiger.training.progress import StepClock, estimated_seconds
from tiger.training.report_page import write_report
from tiger.training.retriever import train_retriever
from tiger.training.run_settings import changed_settings
from tiger.training.tokenizer import (
    TokenizerArguments,
    check_fitted_on,
    digests_of,
    embeddings_digest,
    sized,
    train_tokenizer,
)
from tiger.training.two_stage import train_two_stage
from tiger.utils import devices
from tiger.utils.digests import sha256
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically, written_whole
from tiger.utils.json_files import read_json

RESULTS = "test.json"


def train(
    dataset: str | os.PathLike | RecommendationData | tuple[pa.Table, pa.Table],
    output_dir: str | os.PathLike,
    recipe: str | os.PathLike = "default",
    *,
    embeddings: str | os.PathLike | None = None,
    processes: int = 1,
    steps: Sequence[str] | None = None,
    init_from: str | os.PathLike | None = None,
    split: str = LEAVE_ONE_OUT,
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
        steps: only these, of ``tokenizer``, ``retriever``, ``two_stage`` and ``evaluate``; None: the recipe's.
        init_from: directory of a recommender to go on from, on a log that holds its log and more: items keep their
            IDs, training goes on from its weights, for less, see :data:`tiger.training.plan.GOING_ON`.
        split: ``leave_one_out``, or ``all``: train on all events, for deployment; there are no test results then.
        overrides: other settings than the recipe's, a mapping per step.

    Returns:
        The recommender, read back from ``output_dir/model``.

    Raises:
        DataError: the dataset or a setting can't be used, or ``output_dir`` can't be written, holds a run with other
            settings, or another process trains into it.
        FileExistsError: a folder that would be written holds something else.
        subprocess.CalledProcessError: one of several processes failed.

    Example::

        tiger = train("datasets/mine", "runs/mine", retriever={"seed": 1, "num_train_epochs": 5})
        items, scores = tiger.recommend([["item-1", "item-2"]], k=10)
    """
    folder = dataset if isinstance(dataset, str | os.PathLike) else Path(output_dir) / "dataset"
    merged([EvaluationArguments], overrides.get("evaluate", {}))
    start = Start(None if init_from is None else str(init_from), split)
    more: dict[str, Any] = {"embeddings": embeddings, "processes": processes, "start": start}
    plan = make_plan(folder, output_dir, recipe, **more, overrides=overrides)
    steps = plan.steps if steps is None else list(steps)
    if unread := [step for step in overrides if step not in [*steps_of(plan.recipe), *steps]]:
        raise DataError(f"recipe {recipe} has no {unread[0]}.yaml: nothing would read the settings of {unread[0]}.")
    settings = check_settings(plan, steps)  # of the last step too, before hours of training
    with training_into(plan.out):
        if not isinstance(dataset, str | os.PathLike):
            write_dataset(dataset, Path(folder))
        _run_steps(plan, steps, settings)
        _report(plan, steps)
    return TigerRecommender.from_pretrained(plan.model, devices.fastest())


def _run_steps(plan: Plan, steps: Sequence[str], settings: Mapping[str, tuple]) -> None:
    """Run steps in order, and say of each how long it may take."""
    clock = StepClock(_estimates(plan, settings))
    for number, step in enumerate(steps, 1):
        print(f"step {number} of {len(steps)}: {STEPS[step]}, {clock.start(step)}", flush=True)
        run_step(plan, step)
        clock.done()


def _report(plan: Plan, steps: Sequence[str]) -> None:
    """Write the report of a run that was evaluated, or of one that holds nothing back to evaluate on."""
    if "evaluate" in steps or (not plan.held_out and "retriever" in steps):
        results = read_json(plan.out / RESULTS) if "evaluate" in steps else {}
        print(f"report: {write_report(plan.out, plan.model, plan.dataset, results)}")


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


def _estimates(plan: Plan, settings: Mapping[str, tuple]) -> dict[str, float]:
    """Seconds that each step may take, by the size of the data, which has to be enough to learn from."""
    data = RecommendationData.load(plan.dataset)
    if "retriever" in settings:
        check_enough(data, data.split(LEAVE_ONE_OUT if plan.held_out else ALL), plan.dataset)
    lengths = data.sequences.lengths
    sizes = data.num_items, int((lengths >= 3).sum()), int(np.maximum(lengths - 3, 0).sum())
    known: dict[str, dict] = {step: {} for step in settings}
    for step, parts in settings.items():
        for part in parts:
            known[step] |= vars(part)
    for found in known.values():
        found["batch"] = found.get("per_device_train_batch_size", 0) * plan.processes
    return estimated_seconds(known, sizes, list(settings))


def _run_tokenizer(plan: Plan) -> None:
    """Fit the tokenizer; its settings are kept beside it."""
    (args,) = plan.arguments("tokenizer")
    file, there = plan.out / "tokenizer.json", (plan.out / "tokenizer" / REPORT).exists()
    if there:
        data = RecommendationData.load(args.dataset)
        # Sizes that the catalog asks for are as good as the same ones given.
        before = _recorded(file) if file.exists() else args
        if changed := changed_settings(*(asdict(sized(one, data.num_items)) for one in (before, args))):
            raise DataError(
                f"{plan.out / 'tokenizer'} was fitted with other settings ({'; '.join(changed)}): give those that it "
                "has (--set tokenizer.NAME=VALUE), give another --out, or remove it."
            )
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
        train_retriever(*plan.arguments("retriever"))
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
    (args,) = plan.arguments("two_stage")
    file = plan.out / "two_stage.json"
    digests = data_digests(RecommendationData.load(args.dataset)) | embeddings_digest(args.embeddings)
    digests |= parent_digest(args.init_from)
    record = {"settings": asdict(args), "data": digests}
    there = _second_stage_is_decided(args.recommender)
    before = json.loads(file.read_text()) if there and file.exists() else {}
    # Settings that an older version didn't know have their defaults.
    known = {**asdict(type(args)("", "")), **before.get("settings", {})}
    if before and not changed_settings(known, record["settings"]) and not differing(before.get("data", {}), digests):
        print(f"{args.recommender} is done with a second stage of these settings")
        return
    file.unlink(missing_ok=True)
    train_two_stage(args)
    write_atomically(file, json.dumps(record, indent=1) + "\n")


def _second_stage_is_decided(recommender: str) -> bool:
    """Whether there is a second stage, or a record that there is to be none, which a T5 trained anew lacks."""
    if (Path(recommender) / RANKER / SETTINGS).exists():
        return True
    return (Path(recommender) / MANIFEST).exists() and "second_stage" in read_manifest(recommender)["training"]


def _run_evaluation(plan: Plan) -> None:
    """Measure on test items; results of the same model on the same data are left alone."""
    (args,) = plan.arguments("evaluate")
    file, manifest = plan.out / RESULTS, Path(plan.model) / MANIFEST
    if not manifest.exists():
        raise DataError(f"{plan.model} is not there: train it first (step retriever).")
    digests = data_digests(RecommendationData.load(plan.dataset))
    made_of = {"settings": asdict(args), "model": sha256(manifest), "data": digests}
    before = read_json(file) if file.exists() else {}
    if before.get("of") == made_of:
        print(f"{file} has the results of this model")
        return
    found = measure(plan.model, plan.dataset, args)
    shown = {"num_beams": args.num_beams, "bf16": args.bf16}
    write_atomically(file, json.dumps(found | shown | {"of": made_of}, indent=1, ensure_ascii=False) + "\n")


def write_dataset(data: RecommendationData | tuple[pa.Table, pa.Table], folder: Path) -> Path:
    """Write data as a dataset directory, once: it stays if the same data comes again.

    Raises:
        DataError: the data can't be used, or ``folder`` holds other data.
    """
    if not isinstance(data, RecommendationData):
        data = RecommendationData.from_tables(*pair_of_tables(data), source="the tables")
    events = data.sequences
    log = {
        "user_id": data.user_ids.take(pa.array(np.repeat(np.arange(len(events)), events.lengths))),
        "item_id": data.items["item_id"].combine_chunks().take(pa.array(events.items)),
        "timestamp": events.timestamps,
        **data.extras,
    }
    tables = {"items": data.items, "interactions": pa.table(log)}
    files = {folder / f"{name}.parquet": table for name, table in tables.items()}
    there = {file: table for file, table in files.items() if file.exists()}
    if any(table_digest(pq.read_table(file)) != table_digest(table) for file, table in there.items()):
        raise DataError(f"{folder} holds other data: give another output_dir, or remove that one.")
    folder.mkdir(parents=True, exist_ok=True)
    for file, table in files.items():
        if file not in there:
            with written_whole(file) as temporary:
                pq.write_table(table, temporary)
    return folder
