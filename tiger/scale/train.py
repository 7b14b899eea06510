"""Training of the retriever by processes on many machines, which Ray starts: that of `torchrun`, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from tiger.scale.session import Cluster, session
from tiger.utils.errors import DataError

WORDS, PLACE = "words", "place"


def train_on_ray(words: Sequence[str], cluster: Cluster = Cluster(), max_failures: int = 3) -> None:
    """Train one T5 in several processes; see :func:`tiger.train_retriever`, which each of them runs.

    Args:
        words: settings as ``python -m tiger.training retriever`` takes them: a recipe's YAML, and ``--key value``.
            The working directory, and paths, have to mean the same on all machines.
        cluster: its workers are the processes.
        max_failures: times that all of them are started again, from the last checkpoint, after one was lost.

    Raises:
        DataError: there is no such cluster, it has too few cores, or a setting or the data can't be used.
    """
    words = list(words)
    storage = f"{_output_dir(words)}.ray"  # wrong settings are told before anything starts
    with session(cluster):
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        on_gpu = cluster.gpus > 0
        trainer = TorchTrainer(
            train_in_worker,
            train_loop_config={WORDS: words, PLACE: os.getcwd()},
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=cluster.workers,
                use_gpu=on_gpu,
                resources_per_worker={"CPU": cluster.cpus} | ({"GPU": cluster.gpus} if on_gpu else {}),
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=max_failures),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise _cause(error) from error


def train_in_worker(config: dict[str, Any]) -> None:
    """One of the processes; Ray has joined them, and has told each its rank in its environment."""
    from transformers import TrainingArguments

    from tiger.training.arguments import parse_arguments
    from tiger.training.retriever import RetrieverArguments, train_retriever

    try:
        os.chdir(config[PLACE])  # Ray gives each worker a directory of its own, and paths may be relative
    except OSError as error:
        place = config[PLACE]
        raise DataError(f"{place} is not on a worker's machine: start from a directory that all share.") from error
    train_retriever(*parse_arguments([RetrieverArguments, TrainingArguments], config[WORDS]))


def _output_dir(words: Sequence[str]) -> str:
    """The directory of checkpoints. ``TrainingArguments`` are the workers' to make: they join processes.

    Raises:
        DataError: a setting is unknown, a file is missing, or there is no ``output_dir``.
    """
    from transformers import TrainingArguments

    from tiger.training.arguments import checked_words, merged
    from tiger.training.retriever import RetrieverArguments

    kinds = [RetrieverArguments, TrainingArguments]
    files, options = checked_words(kinds, words)
    name, found = "--output_dir", merged(kinds, *files).get("output_dir")
    for place, word in enumerate(options):
        if word.startswith(f"{name}="):
            found = word.partition("=")[2]
        elif word == name and place + 1 < len(options):
            found = options[place + 1]
    if not found:
        raise DataError("there is no output_dir: give --output_dir, a folder that all machines share.")
    return os.path.abspath(str(found))


def _cause(error: Exception) -> Exception:
    """The error of a setting or of the data within what Ray makes of it."""
    seen: list[BaseException] = [error, *getattr(error, "worker_failures", {}).values()]
    for one in seen:
        inner = getattr(one, "cause", None) or one.__cause__
        for found in (one, inner):
            if isinstance(found, DataError | FileExistsError):
                return DataError(str(found))
    return error
