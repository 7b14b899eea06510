"""From the paper's recipe to ours, a step at a time, at the same cost.

    python recipes/experiments/ablation.py --dataset datasets/beauty --tokenizers RQVAE KMEANS LOG LOG3 [--seconds 240]

Each row changes one thing in the row above it and trains for the same CPU time, with one cosine over it: the number of
steps follows from the time of the first ones. So a row says what its change gives to who has so many seconds, and
a cheaper model may make up by more steps what it loses in size. After "ours", single changes to it, which train for as
many steps as ours did, whatever that costs: a busy machine gives fewer steps a CPU second.
A user token is put before the history; who has more events than fit in a history goes without, and everybody's first
event becomes one more target. *No two items with the same codes*: an item whose codes are taken gets the first free
last code, and the collision token says nothing.
Validation and test are measured on the same users; nothing is chosen on the test. What is there is not run again.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback, TrainingArguments, set_seed

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut
from tiger.embeddings.base import load_embeddings
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.item_vectors import cooccurrence_vectors, principal_axes, tfidf_vectors
from tiger.evaluation.results import command_line
from tiger.recommender.trainer import TigerTrainer
from tiger.retriever.config import is_causal, t5_config
from tiger.retriever.dataset import EvaluationExamples, TrainingExamples
from tiger.retriever.initialization import init_nearest_neighbor, init_token_embeddings
from tiger.retriever.model import TigerT5
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

TOKENIZERS = ("rqvae", "kmeans", "log", "log3")
PAPER = {
    "tokenizer": "rqvae",
    "history_attention": "full",
    "d_model": 128,
    "layers": 4,
    "d_ff": 1024,
    "dropout": 0.1,
    "tokens": "codes",
    "start": {},
    "neighbours": False,
    "rate": 1e-3,
    "embeddings": None,
    "muon": None,
    "history": 20,
    "averaged": 0.0,
    "user tokens": 0,
    "own codes": False,
}
STEPS = {
    "the paper's T5, AdamW": {},
    "encoder causal over items, a user's targets at once": {"history_attention": "causal"},
    "learning rate x 5 for embeddings": {"embeddings": 5e-3},
    "Muon for matrices": {"muon": 3e-3},
    "tokens start from codes": {"start": {"codes": 1}},
    "tokens are prefixes": {"tokens": "prefixes"},
    "2 + 2 layers, MLP 512": {"layers": 2, "d_ff": 512},
    "tokens start from words instead": {"start": {"words": 1}},
    "from log, words and texts, 3 : 3 : 2": {"start": {"log": 3, "words": 3, "texts": 2}},
    "layers start by passing on": {"neighbours": True},
    "256 dimensions, dropout .15": {"d_model": 256, "dropout": 0.15},
    "2 codes by k-means": {"tokenizer": "kmeans"},
    "2 codes, of texts and log": {"tokenizer": "log"},
    "ours: AdamW for all, once more": {"muon": None},
}
CHANGES = {
    "ours, dropout .1": {"dropout": 0.1},
    "ours, dropout .2": {"dropout": 0.2},
    "ours, histories of 5 items": {"history": 5},
    "ours, 2,000 user tokens": {"user tokens": 2000},
    "ours, no two items with the same codes": {"own codes": True},
    "ours, 3 codes": {"tokenizer": "log3"},
    "ours, 3 codes, no two items with the same": {"tokenizer": "log3", "own codes": True},
    "ours, Muon for matrices": {"muon": 3e-3},
    "ours, tokens are codes": {"tokens": "codes"},
    "ours, tokens are hashed prefixes": {"tokens": "hashed_prefixes"},
    "ours, learning rates x 2": {"rate": 2e-3, "embeddings": 1e-2},
    "ours, learning rates / 2": {"rate": 5e-4, "embeddings": 2.5e-3},
    "ours, weights averaged over the last fifth": {"averaged": 0.2},
    "ours, 4 + 4 layers, MLP 1024": {"layers": 4, "d_ff": 1024},
    "ours, started from the log alone": {"start": {"log": 1}},
}


@dataclass
class AblationArguments:
    dataset: str = field(metadata={"help": "dataset directory"})
    tokenizers: list[str] = field(
        metadata={
            "help": "what recipes/tokenizer.py wrote: 3 codes of an RQ-VAE, 2 by k-means, 2 and 3 of texts and log"
        }
    )
    embeddings: str | None = field(
        default=None, metadata={"help": "safetensors with the texts' vectors; without them codes stand in"}
    )
    results_dir: str = "recipes/results/ablation"
    seconds: float = field(default=240.0, metadata={"help": "CPU seconds of training a row (of a GPU: seconds)"})
    targets: int = field(default=512, metadata={"help": "a batch"})
    users: int = field(default=10000, metadata={"help": "measured on"})
    num_beams: int = 20
    seed: int = 0


def main() -> None:
    (args,) = parse_arguments([AblationArguments])
    data = RecommendationData.load(args.dataset)
    if len(args.tokenizers) != len(TOKENIZERS):
        raise DataError(f"--tokenizers: give {len(TOKENIZERS)} folders, of {', '.join(TOKENIZERS)}.")
    tokenizers = dict(zip(TOKENIZERS, map(SemanticIdTokenizer.from_pretrained, args.tokenizers)))
    for tokenizer in tokenizers.values():
        tokenizer.check_split(None)
    tokenizer = tokenizers["rqvae"]
    split = data.leave_one_out()
    known = {
        "codes": partial(principal_axes, tokenizer.quantizer.decode(tokenizer.codes)),
        "words": partial(tfidf_vectors, item_texts(data.items)),
        "log": partial(cooccurrence_vectors, split.train, data.num_items),
    }
    known["texts"] = known["codes"]
    if args.embeddings is not None:
        known["texts"] = partial(principal_axes, load_embeddings(args.embeddings, data.num_items))
    file = Path(args.results_dir) / f"{Path(args.dataset).name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    same = {name: getattr(args, name) for name in ("seconds", "targets", "users", "num_beams", "seed")}
    same["semantic_ids"] = {name: tokenizer.fingerprint for name, tokenizer in tokenizers.items()}
    found = json.loads(file.read_text()) if file.exists() else {"dataset": file.stem, "rows": []} | same
    for name, value in same.items():
        if found[name] != value:
            raise DataError(
                f"{file} holds rows with {name} {found[name]}, not {value}: remove it, or give another folder."
            )
    found["command"] = command_line(sys.argv)
    for name, settings in rows().items():
        there = [row["settings"] for row in found["rows"] if row["step"] == name]
        if there and PAPER | there[0] != settings:
            raise DataError(f"{file}: row {name!r} was measured with other settings: remove it.")
        if there:
            continue
        steps = None
        if name in CHANGES:
            (steps,) = (row["steps"] for row in found["rows"] if row["step"] == list(STEPS)[-1])
        found["rows"].append({"step": name} | measure(args, settings, tokenizers, split, known, steps))
        write_atomically(file, json.dumps(found, indent=1) + "\n")
        print(found["rows"][-1], flush=True)


def rows() -> dict[str, dict]:
    """Settings by the name of their row."""
    found, settings = {}, PAPER
    for name, change in STEPS.items():
        settings = settings | change
        found[name] = settings
    return found | {name: settings | change for name, change in CHANGES.items()}


def measure(
    args: AblationArguments,
    settings: dict,
    tokenizers: dict[str, SemanticIdTokenizer],
    split: LeaveOneOut,
    known: dict,
    steps: int | None = None,
) -> dict:
    """Train for the time given, or for so many steps; decode validation and test."""
    tokenizer = tokenizers[settings["tokenizer"]].with_tokens(settings["tokens"])
    if settings["own codes"]:
        tokenizer = with_own_codes(tokenizer)
    if settings["user tokens"]:
        tokenizer, split = with_user_tokens(tokenizer, split, settings["user tokens"])
    clock = Clock()
    if steps is None:
        make_trainer(args, settings, tokenizer, split, known, 20, clock).train()
        # The first steps are slower than the rest; half a dozen of them are left out.
        steps = max(20, int(args.seconds / clock.seconds_a_step(skip=6)))
    trainer = make_trainer(args, settings, tokenizer, split, known, steps, clock)
    trainer.train()
    trained = clock.times[-1] - clock.times[0]
    row = {"steps": steps, "epochs": round(trainer.state.epoch, 2), "seconds": round(trained, 1)}
    row |= {"parameters": trainer.model.num_parameters(), "settings": settings}
    for part in ("valid", "test"):
        metrics = trainer.evaluate(EvaluationExamples(*split.part(part), settings["history"]).sample(args.users))
        row[part] = {name[5:]: round(value, 5) for name, value in metrics.items() if "@" in name or "loss" in name}
    return row


def make_trainer(args, settings, tokenizer, split, known, steps: int, clock: Clock) -> TigerTrainer:
    set_seed(args.seed)
    config = t5_config(
        tokenizer,
        d_model=settings["d_model"],
        num_layers=settings["layers"],
        d_ff=settings["d_ff"],
        dropout_rate=settings["dropout"],
        history_attention=settings["history_attention"],
    )
    model = TigerT5(config)
    if settings["start"]:
        whole = sum(settings["start"].values())
        sizes = {name: part * settings["d_model"] // whole for name, part in settings["start"].items()}
        vectors = (known[name](size) for name, size in sizes.items())
        init_token_embeddings(model, tokenizer, *(with_random_rows(part, len(tokenizer)) for part in vectors))
    if settings["neighbours"]:
        init_nearest_neighbor(model)
    on_cpu = not torch.accelerator.is_available()
    training = TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="ablation"),
        max_steps=steps,
        per_device_train_batch_size=args.targets,
        per_device_eval_batch_size=256,
        learning_rate=settings["rate"],
        lr_scheduler_type="cosine",
        warmup_steps=0.02,
        weight_decay=0.03,
        optim="adamw_torch_fused",
        bf16=True,
        use_cpu=on_cpu,
        save_strategy="no",
        logging_steps=100,
        report_to="none",
        seed=args.seed,
    )
    return TigerTrainer(
        model=model,
        args=training,
        train_dataset=TrainingExamples(split.train, settings["history"], shared=is_causal(model)),
        processing_class=tokenizer,
        num_beams=args.num_beams,
        embedding_learning_rate=settings["embeddings"],
        muon_learning_rate=settings["muon"],
        callbacks=[Average(settings["averaged"]), clock] if settings["averaged"] else [clock],
    )


def with_own_codes(tokenizer: SemanticIdTokenizer) -> SemanticIdTokenizer:
    """The same, but for items whose codes another item has, too: they get the first free last code.

    Raises:
        DataError: more items share all codes but the last than there are last codes.
    """
    codes = tokenizer.codes.copy()
    groups = np.unique(codes[:, :-1], axis=0, return_inverse=True)[1].ravel()
    for group in range(groups.max() + 1):
        rows = np.flatnonzero(groups == group)
        if len(rows) > tokenizer.codebook_size:
            raise DataError(f"{len(rows)} items share all codes but the last, of {tokenizer.codebook_size}.")
        taken, first = np.unique(codes[rows, -1], return_index=True)
        others = np.delete(rows, first)
        codes[others, -1] = np.setdiff1d(np.arange(tokenizer.codebook_size), taken)[: len(others)]
    return SemanticIdTokenizer(codes, tokenizer.item_ids, tokenizer.codebook_size, tokens=tokenizer.tokens)


def with_user_tokens(
    tokenizer: SemanticIdTokenizer, split: LeaveOneOut, count: int
) -> tuple[SemanticIdTokenizer, LeaveOneOut]:
    """Users drawn into ``count`` groups, whose tokens stand before all histories: items with a first code of their
    own, which nobody ever bought."""
    numbers, size = np.arange(count), tokenizer.codebook_size
    codes = np.zeros((count, tokenizer.num_codebooks), dtype=np.int64)
    codes[:, 0], codes[:, -1] = size, numbers % size
    names = [f"user group {number}" for number in numbers]
    joined = np.concatenate([tokenizer.codes, codes]), [*tokenizer.item_ids, *names], size + 1
    groups = len(tokenizer) + np.random.default_rng(0).integers(count, size=len(split.users))

    def led(sequences: Sequences) -> Sequences:
        items, times = (
            np.insert(part, sequences.offsets[:-1], lead)
            for part, lead in ((sequences.items, groups), (sequences.timestamps, 0))
        )
        return Sequences(sequences.offsets + np.arange(len(sequences) + 1), items, times)

    changed = replace(split, train=led(split.train), test_histories=led(split.test_histories))
    return SemanticIdTokenizer(*joined, tokens=tokenizer.tokens), changed


def with_random_rows(vectors: np.ndarray, count: int) -> np.ndarray:
    """As many rows as there are items; what is added says nothing."""
    random = np.random.default_rng(0).normal(0, vectors.std(), (count - len(vectors), vectors.shape[1]))
    return np.concatenate([vectors, random.astype(vectors.dtype)])


class Average(TrainerCallback):
    """Mean of the weights over the last ``share`` of the steps, put in their place at the end."""

    def __init__(self, share: float):
        self.share = share

    def on_train_begin(self, *_, **__):
        self.sums, self.count = None, 0

    def on_step_end(self, args, state, control, model, **_):
        if state.global_step <= (1 - self.share) * state.max_steps:
            return
        weights = [weight.detach() for weight in model.parameters()]
        self.sums = [weight.clone() for weight in weights] if self.sums is None else self.sums
        if self.count:
            torch._foreach_add_(self.sums, weights)
        self.count += 1

    @torch.no_grad()
    def on_train_end(self, args, state, control, model, **_):
        for weight, total in zip(model.parameters(), self.sums):
            weight.copy_(total / self.count)


class Clock(TrainerCallback):
    """When each step ended: CPU seconds of the process, or seconds where an accelerator works."""

    def __init__(self):
        self._now = time.perf_counter if torch.accelerator.is_available() else time.process_time
        self.times: list[float] = []

    def on_train_begin(self, *_, **__):
        self.times = [self._now()]

    def on_step_end(self, *_, **__):
        self.times.append(self._now())

    def seconds_a_step(self, skip: int) -> float:
        return (self.times[-1] - self.times[skip]) / (len(self.times) - 1 - skip)


if __name__ == "__main__":
    with friendly_errors():
        main()
