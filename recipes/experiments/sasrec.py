"""SASRec, a model over item ids, as a control: does a T5 over semantic IDs do what an item table can't?

    python recipes/experiments/sasrec.py --dataset datasets/beauty --out runs/beauty/sasrec [--start_from log:1]

The transformer of SASRec (arXiv 1808.09781): causal over the items of a history, its output multiplied by the table
that it reads. It is trained with the cross-entropy over all items, on every prefix, as ``tiger`` is. With
``--start_from`` the item table starts from the vectors that ``tiger``'s tokens start from, and the layers from passing
on the last item; without, from random numbers. The epoch with the best NDCG@10 of validation is kept, and measured on
test once. What was interrupted goes on at the epoch it was in. Writes ``sasrec.json``, or ``sasrec-init.json``.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn
from torch.nn import functional as F

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences, pad_rows
from tiger.data.splits import LeaveOneOut
from tiger.embeddings.base import load_embeddings
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.item_vectors import cooccurrence_vectors, principal_axes, tfidf_vectors
from tiger.evaluation.evaluator import evaluate, rank_bytes
from tiger.evaluation.results import Measured, mean_over_seeds, model_results, results_table, write_results
from tiger.retriever.dataset import EvaluationExamples, LengthBatchSampler, TrainingExamples
from tiger.training.arguments import parse_arguments
from tiger.training.retriever import shares_of
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

METRIC = "ndcg@10"
BESIDE = ("out", "results_dir", "ranks_dir", "dataset", "seconds")  # settings that change no epoch
ANSWERS = 50  # places that a file of ranks tells apart, as many as `tiger` has beams


@dataclass
class SASRecArguments:
    dataset: str = field(metadata={"help": "dataset directory"})
    out: str = field(metadata={"help": "folder of the run: checkpoint, weights and curve"})
    results_dir: str | None = field(default=None, metadata={"help": "of the rows; default: OUT/results"})
    ranks_dir: str | None = field(
        default=None, metadata={"help": "of the place of every user's target; default: none"}
    )
    start_from: str = field(
        default="", metadata={"help": "log, words, texts and their shares, such as log:3,words:3,texts:2"}
    )
    embeddings: str | None = field(default=None, metadata={"help": "safetensors with the texts' vectors, for texts"})
    d_model: int = 128
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.3
    max_history: int = 20
    num_epochs: int = 20
    batch: int = field(default=512, metadata={"help": "targets of a step"})
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    table_std: float = field(default=0.04, metadata={"help": "standard deviation of the item table before training"})
    eval_users: int | None = field(default=None, metadata={"help": "number of validation users; default: all"})
    shuffle_ties: int | None = field(default=None, metadata={"help": "seed of the split, default: as published"})
    bf16: bool = field(default=True, metadata={"help": "matrix products in bfloat16"})
    seed: int = 0
    seconds: float | None = field(default=None, metadata={"help": "start no epoch after so many seconds of training"})

    @property
    def name(self) -> str:
        """Name of the model in tables."""
        return "sasrec-init" if self.start_from else "sasrec"


class SASRec(nn.Module):
    """A causal transformer over item embeddings, its output layer tied to them.

    Args:
        num_items: rows of the catalog; a row more pads.
        args: sizes and dropout.
    """

    def __init__(self, num_items: int, args: SASRecArguments):
        super().__init__()
        size = args.d_model
        self.num_items, self.dropout = num_items, args.dropout
        self.items = nn.Embedding(num_items + 1, size)
        self.positions = nn.Embedding(args.max_history, size)
        self.layers = nn.ModuleList(_Layer(size, args.num_heads, args.dropout) for _ in range(args.num_layers))
        self.norm = nn.LayerNorm(size)
        nn.init.normal_(self.items.weight, std=args.table_std)
        nn.init.normal_(self.positions.weight, std=args.table_std)

    @torch.no_grad()
    def start_from(self, vectors: list[np.ndarray]) -> None:
        """Set the table to vectors, [items, part of the size] each, each kind centered and of the table's variance.

        The layers start by adding nothing: the untrained model answers with the neighbors of the last item.
        """
        parts = [torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in vectors]
        parts = [part - part.mean(dim=0) for part in parts]
        known = torch.cat([part / part.std().clamp(min=1e-12) for part in parts], dim=1)
        self.items.weight[: self.num_items] = known * self.items.weight.std()
        self.positions.weight.zero_()
        for layer in self.layers:
            layer.out.weight.zero_()
            layer.outer.weight.zero_()

    def forward(self, histories: torch.Tensor) -> torch.Tensor:
        """States after each item, [B, S, d]; histories are rows int64 [B, S], padded on the right with -1."""
        rows = histories.masked_fill(histories < 0, self.num_items)
        states = self.items(rows) + self.positions.weight[: rows.shape[1]]
        states = F.dropout(states, self.dropout, self.training)
        for layer in self.layers:
            states = layer(states)
        return self.norm(states)

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """Logits of all items, float32 [..., items]."""
        return F.linear(states, self.items.weight[: self.num_items]).float()


class _Layer(nn.Module):
    """Attention to earlier items, then a layer of two matrices; norms come first."""

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm, self.second_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.into, self.out = nn.Linear(size, 3 * size, bias=False), nn.Linear(size, size, bias=False)
        self.inner, self.outer = nn.Linear(size, size), nn.Linear(size, size, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        q, k, v = self.into(self.norm(states)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        states = states + F.dropout(self.out(seen.transpose(1, 2).flatten(2)), self.dropout, self.training)
        inner = F.dropout(F.relu(self.inner(self.second_norm(states))), self.dropout, self.training)
        return states + F.dropout(self.outer(inner), self.dropout, self.training)


def main() -> None:
    (args,) = parse_arguments([SASRecArguments])
    data = RecommendationData.load(args.dataset)
    split = data.leave_one_out(args.shuffle_ties)
    training = Training(args, data, split)
    training.run()
    best = training.best_model()

    def stages(histories: Sequences, exclude_history: bool) -> Iterator[tuple[str, np.ndarray]]:
        yield args.name, recommend(best, args, histories, ANSWERS, exclude_history)[0]

    encoder = Path(args.embeddings).stem.removeprefix("embeddings.") if "texts" in args.start_from else None
    facts = {"training": training.record()}
    measured = Measured(
        Path(args.dataset).name, "test", args.shuffle_ties, (args.seed,), encoder, tuple(facts.items())
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

    def __init__(self, args: SASRecArguments, data: RecommendationData, split: LeaveOneOut):
        self.args, self.split = args, split
        self.device = torch.accelerator.current_accelerator() or torch.device("cpu")
        torch.manual_seed(args.seed)
        self.model = SASRec(data.num_items, args)
        self._identity = _identity(args, split)
        self._checkpoint = Path(args.out) / "checkpoint.safetensors"
        resumed = self._checkpoint.is_file()
        if args.start_from and not resumed:
            self.model.start_from(vectors_of(args, data, split))
        self.model.to(self.device)
        self.optimizer = torch.optim.AdamW(self._groups(), lr=args.learning_rate, betas=(0.9, 0.98), fused=True)
        self.curve: list[dict] = []
        self.seconds = 0.0
        if resumed:
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
        sampler = LengthBatchSampler(examples, args.batch, args.seed)
        valid = EvaluationExamples(*self.split.part("valid")).sample(args.eval_users)
        for epoch in range(len(self.curve), args.num_epochs):
            if self.curve and args.seconds is not None and self.seconds >= args.seconds:
                break
            start = time.perf_counter()
            torch.manual_seed(args.seed + 1000 * (epoch + 1))  # an epoch is the same, whether gone on with or not
            sampler.set_epoch(epoch)
            loss = self._epoch(epoch, examples, sampler)
            found = evaluate(
                lambda histories, k, exclude_history: recommend(self.model, args, histories, k, exclude_history),
                valid.histories,
                valid.targets,
                (10,),
            )
            self.seconds += time.perf_counter() - start
            self.curve.append({"loss": round(loss, 4)} | {name: round(v, 5) for name, v in found.metrics.items()})
            if self.curve[-1][METRIC] == max(row[METRIC] for row in self.curve):
                write_atomically(Path(args.out) / "model.safetensors", save(self._weights()))
            self._save()
            print(f"epoch {epoch + 1}: {self.curve[-1]}, {self.seconds:.0f} s", flush=True)

    def _epoch(self, epoch: int, examples: TrainingExamples, sampler: LengthBatchSampler) -> float:
        """Train on every target once; the mean loss."""
        self.model.train()
        total, count, steps = 0.0, 0, len(sampler)
        for step, batch in enumerate(sampler):
            rate = self.args.learning_rate * schedule(epoch * steps + step, self.args.num_epochs * steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            histories, targets = (part.to(self.device) for part in batch_of([examples[at] for at in batch]))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.bf16):
                wanted = targets >= 0
                scores = self.model.scores(self.model(histories)[wanted])
            loss = F.cross_entropy(scores, targets[wanted])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total, count = total + float(loss.detach()) * len(scores), count + len(scores)
        return total / count

    def best_model(self) -> SASRec:
        """The model of the epoch with the best validation."""
        with safe_open(Path(self.args.out) / "model.safetensors", "pt") as file:
            self.model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
        return self.model.eval()

    def record(self) -> dict:
        """Record of the training, for the rows of results."""
        best = max(range(len(self.curve)), key=lambda epoch: self.curve[epoch][METRIC])
        return {
            "arguments": asdict(self.args),
            "epochs": len(self.curve),
            "best_epoch": best + 1,
            "validation ndcg@10": self.curve[best][METRIC],
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


def _identity(args: SASRecArguments, split: LeaveOneOut) -> str:
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


@torch.inference_mode()
def recommend(
    model: SASRec, args: SASRecArguments, histories: Sequences, k: int, exclude_history: bool, size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """The best items: rows int64 [users, k] and logits float32 [users, k]; a catalog of fewer gives fewer."""
    model.eval()
    device, k = model.items.weight.device, min(k, model.num_items)
    answers = np.empty((len(histories), k), dtype=np.int64)
    scores = np.empty((len(histories), k), dtype=np.float32)
    examples = EvaluationExamples(histories, np.zeros(len(histories), dtype=np.int64), args.max_history)
    order = examples.by_length()
    for users in (order[start : start + size] for start in range(0, len(order), size)):
        found = [examples[user] for user in users]
        rows = torch.from_numpy(pad_rows([one["history"] for one in found])).to(device)
        last = rows.ge(0).sum(dim=1).clamp(min=1) - 1
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            states = model(rows)[torch.arange(len(rows), device=device), last]
        values = model.scores(states.float())  # in bfloat16, many items would share a score
        if exclude_history:
            seen = torch.from_numpy(pad_rows([one["seen"] for one in found])).to(device)
            values = F.pad(values, (0, 1)).scatter(1, seen.masked_fill(seen < 0, model.num_items), -math.inf)[:, :-1]
        best = values.topk(k)
        rows_found = best.indices.masked_fill(best.values.isneginf(), -1)
        answers[users], scores[users] = rows_found.cpu().numpy(), best.values.cpu().numpy()
    return answers, scores


def vectors_of(args: SASRecArguments, data: RecommendationData, split: LeaveOneOut) -> list[np.ndarray]:
    """Vectors of the sources in ``start_from``, each with its share of ``d_model``.

    Raises:
        DataError: another source, or no vectors of the texts.
    """
    parts = shares_of(args.start_from, args.d_model, ("log", "words", "texts"))
    if parts is None:
        raise DataError(
            f"start_from {args.start_from!r}: expected log, words, texts and shares, such as log:3,words:1."
        )
    if args.embeddings is None and any(name == "texts" for name, _ in parts):
        raise DataError("start_from texts: give their vectors by --embeddings, or leave texts out.")
    sources = {
        "log": lambda size: cooccurrence_vectors(split.train, data.num_items, size),
        "words": lambda size: tfidf_vectors(item_texts(data.items), size),
        "texts": lambda size: principal_axes(load_embeddings(args.embeddings, data.num_items), size),
    }
    return [sources[name](size) for name, size in parts]


if __name__ == "__main__":
    with friendly_errors():
        main()
