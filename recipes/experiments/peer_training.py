"""Training of a peer, and its rows of results: what ``sasrec.py`` and ``hstu.py`` beside this file run."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from peer import Peer, PeerArguments, make_peer, recommend, with_times_as_items
from safetensors import safe_open
from safetensors.torch import save
from torch.nn import functional as F

from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences, pad_rows
from tiger.data.splits import LeaveOneOut
from tiger.embeddings.item_text import item_texts
from tiger.evaluation.evaluator import evaluate, rank_bytes
from tiger.evaluation.results import Measured, mean_over_seeds, model_results, results_table, write_results
from tiger.retriever.dataset import EvaluationExamples, LengthBatchSampler, TrainingExamples
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

METRIC = "ndcg@10"
# Settings that change no epoch.
BESIDE = ("out", "results_dir", "ranks_dir", "dataset", "seconds", "patience")
ANSWERS = 50  # places that a file of ranks tells apart, as many as `tiger` has beams


def run_peer(kind: type[PeerArguments]) -> None:
    """Train a peer by the command line, measure the best epoch on test, and write its rows."""
    (args,) = parse_arguments([kind])
    data = RecommendationData.load(args.dataset)
    split = data.leave_one_out(args.shuffle_ties)
    training = Training(args, data, split)
    training.run()
    best = training.best_model()

    def stages(histories: Sequences, exclude_history: bool) -> Iterator[tuple[str, np.ndarray]]:
        yield args.name, recommend(best, args, histories, ANSWERS, exclude_history)[0]

    facts = {"training": training.record()}
    measured = Measured(
        Path(args.dataset).name, "test", args.shuffle_ties, (args.seed,), args.encoder, tuple(facts.items())
    )
    rows, found = model_results(measured, stages, split, item_texts(data.items, required=False))
    rows = mean_over_seeds(rows)
    print(results_table(rows))
    write_results(rows, args.results_dir or f"{args.out}/results")
    if args.ranks_dir is not None:
        Path(args.ranks_dir).mkdir(parents=True, exist_ok=True)
        ranks = {setting: torch.from_numpy(rank_bytes(one, ANSWERS)) for setting, one in found.items()}
        write_atomically(Path(args.ranks_dir) / f"{args.name}-seed{args.seed}.safetensors", save(ranks))


class Training:
    """A run: model, optimizer and what validation said after each epoch; one file holds it all.

    Args:
        args: settings. Those of a run that is gone on with must be the same.
        data: the dataset, for the vectors to start from.
        split: trained and validated on.

    Raises:
        DataError: the folder holds a run with other settings.
    """

    def __init__(self, args: PeerArguments, data: RecommendationData, split: LeaveOneOut):
        self.args, self.split = args, split
        self.device = torch.accelerator.current_accelerator() or torch.device("cpu")
        # On a CPU the time of the process: the hours of a machine that others use say little.
        self.clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        self.model = make_peer(args, data, split).to(self.device)
        self._identity = _identity(args, split)
        self._checkpoint = Path(args.out) / "checkpoint.safetensors"
        self.optimizer = torch.optim.AdamW(self._groups(), lr=args.learning_rate, betas=(0.9, 0.98), fused=True)
        self.curve: list[dict] = []
        self.seconds = 0.0
        if self._checkpoint.is_file():
            self._load()

    def _groups(self) -> list[dict]:
        matrices = [weight for weight in self.model.parameters() if weight.ndim == 2]
        others = [weight for weight in self.model.parameters() if weight.ndim < 2]
        return [
            {"params": matrices, "weight_decay": self.args.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]

    def run(self) -> None:
        """Train the epochs that are left; save after each."""
        args = self.args
        Path(args.out).mkdir(parents=True, exist_ok=True)
        examples = TrainingExamples(self.split.train, args.max_history)
        times = TrainingExamples(with_times_as_items(self.split.train), args.max_history)
        sampler = LengthBatchSampler(examples, args.batch, args.seed)
        valid = EvaluationExamples(*self.split.part("valid")).sample(args.eval_users)
        for epoch in range(len(self.curve), args.num_epochs):
            if self.finished():
                break
            start = self.clock()
            torch.manual_seed(args.seed + 1000 * (epoch + 1))  # an epoch is the same, whether gone on with or not
            sampler.set_epoch(epoch)
            loss = self._epoch(epoch, (examples, times), sampler)
            found = evaluate(
                lambda histories, k, exclude_history: recommend(self.model, args, histories, k, exclude_history),
                valid.histories,
                valid.targets,
                (10,),
            )
            self.seconds += self.clock() - start
            self.curve.append({"loss": round(loss, 4)} | {name: round(v, 5) for name, v in found.metrics.items()})
            if self.curve[-1][METRIC] == max(row[METRIC] for row in self.curve):
                write_atomically(Path(args.out) / "model.safetensors", save(self._weights()))
            self._save()
            print(f"epoch {epoch + 1}: {self.curve[-1]}, {self.seconds:.0f} s", flush=True)

    def finished(self) -> bool:
        """Whether time or patience is at its end, after at least one epoch."""
        late = self.args.seconds is not None and self.seconds >= self.args.seconds
        patience = self.args.patience
        return bool(self.curve) and (late or patience is not None and len(self.curve) - self.best_epoch >= patience)

    def _epoch(
        self, epoch: int, examples: tuple[TrainingExamples, TrainingExamples], sampler: LengthBatchSampler
    ) -> float:
        """Train on every target once; the mean loss. Examples are those of items and those of times."""
        self.model.train()
        total, count, steps = 0.0, 0, len(sampler)
        for step, batch in enumerate(sampler):
            rate = self.args.learning_rate * schedule(epoch * steps + step, self.args.num_epochs * steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            histories, targets = (part.to(self.device) for part in batch_of([examples[0][at] for at in batch]))
            times = batch_of([examples[1][at] for at in batch])[0].to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.bf16):
                wanted, table = targets >= 0, self.model.table()
                scores = self.model.scores(self.model(histories, times, table)[wanted], table)
            loss = F.cross_entropy(scores, targets[wanted])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total, count = total + float(loss.detach()) * len(scores), count + len(scores)
        return total / count

    @property
    def best_epoch(self) -> int:
        """Number of the epoch with the best validation, the first is 1."""
        return 1 + max(range(len(self.curve)), key=lambda epoch: self.curve[epoch][METRIC])

    def best_model(self) -> Peer:
        """The model of the epoch with the best validation."""
        with safe_open(Path(self.args.out) / "model.safetensors", "pt") as file:
            self.model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
        return self.model.eval()

    def record(self) -> dict:
        """Record of the training, for the rows of results."""
        return {
            "arguments": asdict(self.args),
            "epochs": len(self.curve),
            "best_epoch": self.best_epoch,
            "validation ndcg@10": self.curve[self.best_epoch - 1][METRIC],
            "seconds": round(self.seconds),
            "parameters": sum(weight.numel() for weight in self.model.parameters()),
            "curve": self.curve,
        }

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().cpu().clone() for name, weight in self.model.state_dict().items()}

    def _save(self) -> None:
        tensors = {f"model/{name}": weight for name, weight in self._weights().items()}
        for number, weight in enumerate(weight for group in self._groups() for weight in group["params"]):
            for name, values in self.optimizer.state[weight].items():
                tensors[f"optimizer/{number}/{name}"] = values.detach().cpu().clone()
        state = {"run": self._identity, "curve": self.curve, "seconds": self.seconds}
        write_atomically(self._checkpoint, save(tensors, {"state": json.dumps(state)}))
        write_atomically(Path(self.args.out) / "curve.json", json.dumps(self.curve, indent=1) + "\n")

    def _load(self) -> None:
        with safe_open(self._checkpoint, "pt") as file:
            state = json.loads(file.metadata()["state"])
            if state["run"] != self._identity:
                raise DataError(f"{self.args.out} holds a run with other settings or data: give another --out.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        self.model.load_state_dict(
            {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
        )
        for number, weight in enumerate(weight for group in self._groups() for weight in group["params"]):
            prefix = f"optimizer/{number}/"
            parts = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            self.optimizer.state[weight] = {name: value.to(self.device) for name, value in parts.items()}
        self.curve, self.seconds = state["curve"], state["seconds"]


def _identity(args: PeerArguments, split: LeaveOneOut) -> str:
    """A digest of the settings and of the training log."""
    settings = {name: value for name, value in asdict(args).items() if name not in BESIDE}
    log = split.train.offsets.tobytes() + split.train.items.tobytes()
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode() + log).hexdigest()


def batch_of(examples: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """Histories and, after each of their items, the next one where it is a target: int64 [B, S] each, else -1."""
    rows = torch.from_numpy(pad_rows([example["items"] for example in examples]))
    firsts = torch.tensor([example["first_target"] for example in examples])
    targets = rows[:, 1:].masked_fill(torch.arange(1, rows.shape[1]) < firsts[:, None], -1)
    return rows[:, :-1], targets


def schedule(step: int, steps: int, warmup: float = 0.02) -> float:
    """Factor of the learning rate: linear over the first steps, then a half cosine to 0."""
    share = step / max(1, steps)
    if share < warmup:
        return (step + 1) / (warmup * steps)
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))
