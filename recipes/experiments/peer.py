"""Peers: models over item ids, all trained and measured in one way, so that only their blocks differ.

``sasrec.py`` and ``hstu.py`` beside this file are the peers. Each is a stack of causal blocks over the items of a
history, whose output is multiplied by the table that it reads. They are trained with the cross-entropy over all
items, on every prefix, as ``tiger`` is. The row of an item is its own; with ``--content`` a linear layer of the text's
vector is added to it. With ``--start_from`` rows start from the vectors that ``tiger``'s tokens start from, and blocks
from passing on the last item; without, from random numbers. The epoch with the best NDCG@10 of validation is kept,
and measured on test once. What was interrupted goes on at the epoch it was in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences, pad_rows
from tiger.data.splits import LeaveOneOut
from tiger.embeddings.base import load_embeddings
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.item_vectors import cooccurrence_vectors, principal_axes, tfidf_vectors
from tiger.retriever.dataset import EvaluationExamples
from tiger.training.retriever import shares_of
from tiger.utils.errors import DataError


@dataclass
class PeerArguments:
    """Settings of a peer; a subclass names it and makes its blocks."""

    dataset: str = field(metadata={"help": "dataset directory"})
    out: str = field(metadata={"help": "folder of the run: checkpoint, weights and curve"})
    results_dir: str | None = field(default=None, metadata={"help": "of the rows; default: OUT/results"})
    ranks_dir: str | None = field(
        default=None, metadata={"help": "of the place of every user's target; default: none"}
    )
    start_from: str = field(
        default="", metadata={"help": "log, words, texts and their shares, such as log:3,words:3,texts:2"}
    )
    content: bool = field(default=False, metadata={"help": "add a linear layer of the texts' vectors to the rows"})
    embeddings: str | None = field(
        default=None, metadata={"help": "safetensors with the texts' vectors, for texts and content"}
    )
    d_model: int = 128
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.3
    max_history: int = 20
    num_epochs: int = 20
    patience: int | None = field(
        default=None, metadata={"help": "stop after so many epochs without a better validation; default: never"}
    )
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
        raise NotImplementedError

    def block(self) -> nn.Module:
        """A block: called with states, [B, S, d], and times, int64 [B, S] in seconds, it returns states; a state may
        depend on earlier ones alone. ``pass_on`` makes it return what it gets."""
        raise NotImplementedError

    @property
    def encoder(self) -> str | None:
        """Name of the text encoder whose vectors are read; None: of none."""
        if self.embeddings is None or not (self.content or "texts" in self.start_from):
            return None
        return Path(self.embeddings).stem.removeprefix("embeddings.")


class Peer(nn.Module):
    """A stack of causal blocks over item embeddings, its output layer tied to them.

    Args:
        num_items: rows of the catalog; a row more pads.
        args: sizes, dropout and blocks.
        vectors: float32 [items, D], of the texts, for ``args.content``.
    """

    def __init__(self, num_items: int, args: PeerArguments, vectors: np.ndarray | None = None):
        super().__init__()
        size = args.d_model
        self.num_items, self.dropout = num_items, args.dropout
        self.items = nn.Embedding(num_items + 1, size)
        self.positions = nn.Embedding(args.max_history, size)
        self.layers = nn.ModuleList(args.block() for _ in range(args.num_layers))
        self.norm = nn.LayerNorm(size)
        nn.init.normal_(self.items.weight, std=args.table_std)
        nn.init.normal_(self.positions.weight, std=args.table_std)
        self.content = None
        if vectors is not None:
            centered = torch.from_numpy(vectors - vectors.mean(axis=0))
            # Of variance 1 in each row, as the inputs of linear layers mostly are; the padding's row is 0.
            rows = F.pad(F.normalize(centered) * math.sqrt(vectors.shape[1]), (0, 0, 0, 1))
            self.register_buffer("vectors", rows, persistent=False)
            self.content = nn.Linear(vectors.shape[1], size, bias=False)
            nn.init.normal_(self.content.weight, std=args.table_std / math.sqrt(vectors.shape[1]))

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
        if self.content is not None:
            self.content.weight.zero_()
        for layer in self.layers:
            layer.pass_on()

    def table(self) -> torch.Tensor:
        """Embeddings of all items and, last, of the padding: [items + 1, d]."""
        return self.items.weight if self.content is None else self.items.weight + self.content(self.vectors)

    def forward(self, histories: torch.Tensor, times: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """States after each item, [B, S, d].

        Args:
            histories: rows int64 [B, S], padded on the right with -1.
            times: int64 [B, S], seconds of the events.
            table: what :meth:`table` returned.
        """
        states = F.embedding(histories.masked_fill(histories < 0, self.num_items), table)
        states = states + self.positions.weight[: histories.shape[1]]
        states = F.dropout(states, self.dropout, self.training)
        for layer in self.layers:
            states = layer(states, times)
        return self.norm(states)

    def scores(self, states: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Logits of all items, float32 [..., items]."""
        return F.linear(states, table[: self.num_items]).float()


def make_peer(args: PeerArguments, data: RecommendationData, split: LeaveOneOut) -> Peer:
    """The untrained model of the settings.

    Raises:
        DataError: text vectors are wanted, and not given.
    """
    if args.content and args.embeddings is None:
        raise DataError("content: give the texts' vectors by --embeddings, or leave it out.")
    vectors = load_embeddings(args.embeddings, data.num_items) if args.content and args.embeddings else None
    torch.manual_seed(args.seed)
    model = Peer(data.num_items, args, vectors)
    if args.start_from:
        model.start_from(vectors_of(args, data, split))
    return model


def vectors_of(args: PeerArguments, data: RecommendationData, split: LeaveOneOut) -> list[np.ndarray]:
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


def with_times_as_items(sequences: Sequences) -> Sequences:
    """The same sequences with the seconds of their events in the place of items: cut alike, they stay in step."""
    return replace(sequences, items=sequences.timestamps)


@torch.inference_mode()
def recommend(
    model: Peer, args: PeerArguments, histories: Sequences, k: int, exclude_history: bool, size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """The best items: rows int64 [users, k] and logits float32 [users, k]; a catalog of fewer gives fewer."""
    model.eval()
    device, k = model.items.weight.device, min(k, model.num_items)
    answers = np.empty((len(histories), k), dtype=np.int64)
    scores = np.empty((len(histories), k), dtype=np.float32)
    nobody = np.zeros(len(histories), dtype=np.int64)
    examples = EvaluationExamples(histories, nobody, args.max_history)
    times = EvaluationExamples(with_times_as_items(histories), nobody, args.max_history)
    order, table = examples.by_length(), model.table()
    for users in (order[start : start + size] for start in range(0, len(order), size)):
        found = [examples[user] for user in users]
        rows = torch.from_numpy(pad_rows([one["history"] for one in found])).to(device)
        seconds = torch.from_numpy(pad_rows([times[user]["history"] for user in users])).to(device)
        last = rows.ge(0).sum(dim=1).clamp(min=1) - 1
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            states = model(rows, seconds, table)[torch.arange(len(rows), device=device), last]
        values = model.scores(states.float(), table)  # in bfloat16, many items would share a score
        if exclude_history:
            seen = torch.from_numpy(pad_rows([one["seen"] for one in found])).to(device)
            values = F.pad(values, (0, 1)).scatter(1, seen.masked_fill(seen < 0, model.num_items), -math.inf)[:, :-1]
        best = values.topk(k)
        rows_found = best.indices.masked_fill(best.values.isneginf(), -1)
        answers[users], scores[users] = rows_found.cpu().numpy(), best.values.cpu().numpy()
    return answers, scores
