"""Shared by the speed benchmarks: interleaved timing, the model they run, and how results are written."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import T5ForConditionalGeneration, TrainingArguments, set_seed

from tiger.data.dataset import RecommendationData
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.evaluation.results import command_line
from tiger.recommender.manifest import MANIFEST
from tiger.recommender.recommender import TigerRecommender
from tiger.recommender.trainer import TigerTrainer
from tiger.retriever.config import t5_config
from tiger.retriever.dataset import TrainingExamples
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.files import write_atomically

PACKAGES = ("torch", "transformers", "numpy", "cornac", "torch-rechub")


@dataclass
class SpeedArguments:
    dataset: str = field(default="datasets/beauty", metadata={"help": "dataset directory"})
    model: str = field(
        default="runs/speed/model", metadata={"help": "a saved recommender; made from the dataset where it is missing"}
    )
    results_dir: str = field(default="recipes/results/speed", metadata={"help": "where the JSON files go"})
    repeats: int = field(default=5, metadata={"help": "timed runs of each candidate"})


def interleaved(
    candidates: dict[str, Callable[[], object]], repeats: int, warm: bool = True, label: str = ""
) -> dict[str, dict]:
    """Run the candidates in turn, round after round, so that a slow minute of the machine hits all of them.

    Returns:
        For each: medians of CPU and wall seconds, and all CPU seconds measured.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for turn in tqdm(range(repeats + warm), desc=label or "timing", unit="round", leave=False):
        for name, run in candidates.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            if turn >= warm:
                times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: {
            "cpu_seconds": statistics.median(cpu for cpu, _ in pairs),
            "wall_seconds": statistics.median(wall for _, wall in pairs),
            "cpu_all": [round(cpu, 5) for cpu, _ in pairs],
        }
        for name, pairs in times.items()
    }


def write_result(args: SpeedArguments, name: str, content: dict) -> None:
    """``<results_dir>/<name>.json``, with what it was measured on."""
    Path(args.results_dir).mkdir(parents=True, exist_ok=True)
    content = {"benchmark": name, "dataset": Path(args.dataset).name} | content
    content |= {"hardware": hardware(), "versions": versions(), "command": command_line(sys.argv)}
    file = Path(args.results_dir) / f"{name}.json"
    write_atomically(file, json.dumps(content, indent=1) + "\n")
    print(f"results: {file}")


def hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [
        line.split(":")[1].strip()
        for line in (Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else [])
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def one_thread() -> None:
    """CPU time on one thread, or two threads that wait for each other count as work."""
    torch.set_num_threads(1)


def load_or_make(args: SpeedArguments) -> tuple[TigerRecommender, RecommendationData]:
    """The recommender that decoding is timed with: 4+4 layers, full attention over the history, as the peers have it.

    It is trained for 300 steps, once: enough for beams that look like those of a real model.
    """
    data = RecommendationData.load(args.dataset)
    if Path(args.model, MANIFEST).exists():
        return TigerRecommender.from_pretrained(args.model), data
    set_seed(0)
    embeddings = LSAEncoder.fit(item_texts(data.items), dim=128).encode(item_texts(data.items))
    tokenizer = SemanticIdTokenizer.fit(embeddings, data.item_ids, quantizer="residual-kmeans")
    model = T5ForConditionalGeneration(t5_config(tokenizer, history_attention="full"))
    settings = TrainingArguments(
        str(Path(args.model).parent / "training"),
        max_steps=300,
        per_device_train_batch_size=128,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        bf16=True,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        dataloader_pin_memory=False,
    )
    TigerTrainer(
        model,
        settings,
        TrainingExamples(data.leave_one_out().train, shared=False),
        processing_class=tokenizer,
        embedding_learning_rate=5e-3,
        muon_learning_rate=3e-3,
    ).train()
    TigerRecommender(model, tokenizer).save_pretrained(args.model)
    # Read anew: Trainer leaves a forward that always runs in bfloat16.
    return TigerRecommender.from_pretrained(args.model), data


def histories_of(data: RecommendationData, count: int, seed: int = 0) -> list[np.ndarray]:
    """Histories of test users, drawn once, at most 20 items each."""
    histories, _ = data.leave_one_out().part("test")
    chosen = np.random.default_rng(seed).choice(len(histories), count, replace=False)
    return [np.asarray(history[-20:]) for history in histories.select(chosen)]
