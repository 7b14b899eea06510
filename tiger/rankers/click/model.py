"""The click model: probability of a click, given a history and a candidate that share item features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from tiger.rankers.click.beam_head import BeamHead
from tiger.rankers.click.features import ItemFeatures
from tiger.rankers.click.gate import CountGate
from tiger.utils.auto_classes import register
from tiger.utils.errors import DataError
from tiger.utils.schema import boolean, list_of, number, one_of, optional, text, whole

HEADS = ("mlp", "dcn")
LOSSES = ("binary", "listwise")
TABLE_STD = 0.05  # of the embedding table's numbers before training
# Values that a saved config may have.
CONFIG_RULES = {
    "budget": whole(1, 1 << 31),
    "dense_dim": whole(0, 1 << 20),
    "d_model": whole(1, 1 << 16),
    "hidden_sizes": list_of(whole(1, 1 << 20), longest=64),
    "max_history": whole(1, 1 << 16),
}
OPTIONAL_RULES = {
    "head": one_of(*HEADS),
    "loss": one_of(*LOSSES),
    "num_context": whole(0, 1 << 20),
    "dropout": number(0, 1),
    "row_dropout": number(0, 1),
    "sparse": boolean,
    "t5_weight": number(-1e6, 1e6),
    "item_features": optional(text(64)),
    "semantic_ids": optional(text(64)),
    "learned_from": optional(one_of("train", "valid")),
    "beam_inputs": whole(0, 1 << 10),
    "beam_hidden": whole(1, 1 << 16),
    "reads_memory": boolean,
    "learned_with_memory": optional(boolean),
    "gate_columns": list_of(whole(0, 1 << 16), longest=1 << 10),
}


class RankerConfig(PreTrainedConfig):
    """Sizes of a :class:`SemanticIdRanker`.

    Args:
        budget: rows of the embedding table, as of the item features.
        dense_dim: length of content vectors; 0: none are read.
        d_model: length of an item's vector.
        hidden_sizes: of the head.
        head: ``mlp``, or ``dcn``: two cross layers (DCN-V2, arXiv 2008.13535) before it.
        loss: ``binary`` cross-entropy of each candidate, or ``listwise``: softmax over the candidates of a row.
        max_history: items of a history that are read.
        num_context: further numbers that come with each candidate.
        dropout: in the head.
        row_dropout: share of an item's table rows that training leaves out, anew in each batch, so that none of them,
            its own least of all, is relied on alone.
        sparse: whether the table's gradients hold only the rows that were read.
        t5_weight: how much a T5's log-probability counts beside the logit where a recommender orders its beams.
        item_features: the fingerprint of the features that it was made for.
        semantic_ids: the fingerprint of the tokenizer whose codes they read.
        learned_from: the part of the split that it was fitted to, ``valid`` once ``t5_weight`` was tuned; None:
            ``train``, or a ranker that was saved before this was kept.
        beam_inputs: numbers of a beam that the beam head reads, see :class:`tiger.rankers.click.beam_head.BeamHead`;
            0: there is no beam head.
        beam_hidden: size of its two hidden layers.
        reads_memory: whether its inputs are of searches with a memory.
        learned_with_memory: whether ``t5_weight`` was tuned on searches with a memory; None: it was not tuned, or that
            was not recorded.
        gate_columns: which of an item's table rows are its own and weighed by its count, see
            :class:`tiger.rankers.click.gate.CountGate`; empty: there is no gate.
    """

    model_type = "semantic_id_ranker"

    budget: int = 10_000
    dense_dim: int = 0
    d_model: int = 64
    hidden_sizes: list[int] | tuple[int, ...] = (128, 64)
    head: str = "mlp"
    loss: str = "binary"
    max_history: int = 20
    num_context: int = 0
    dropout: float = 0.1
    row_dropout: float = 0.0
    sparse: bool = True
    t5_weight: float = 0.0
    item_features: str | None = None
    semantic_ids: str | None = None
    learned_from: str | None = None
    beam_inputs: int = 0
    beam_hidden: int = 64
    reads_memory: bool = False
    learned_with_memory: bool | None = None
    gate_columns: list[int] | tuple[int, ...] = ()

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.head not in HEADS or self.loss not in LOSSES:
            raise ValueError(f"head must be one of {HEADS} and loss one of {LOSSES}, got {self.head}, {self.loss}")


@dataclass
class RankerOutput(ModelOutput):
    """
    Args:
        loss: where labels were given.
        logits: float32 [B, C].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class SemanticIdRanker(PreTrainedModel):
    """Scores candidates for a history.

    Items of a batch are embedded once each, and histories and candidates name them by number: a candidate attends to
    the history (scaled dot products with a learned weight for recency), and a head reads the candidate, what it found,
    and their products.
    """

    config: RankerConfig
    config_class = RankerConfig
    base_model_prefix = "ranker"
    main_input_name = "history"

    def __init__(self, config: RankerConfig):
        super().__init__(config)
        d = config.d_model
        self.table = nn.EmbeddingBag(config.budget + 1, d, mode="sum", padding_idx=config.budget, sparse=config.sparse)
        self.dense = (
            nn.Sequential(nn.Linear(config.dense_dim, 2 * d), nn.ReLU(), nn.Linear(2 * d, d))
            if config.dense_dim
            else None
        )
        self.gate = CountGate(config.gate_columns) if config.gate_columns else None
        self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))
        # The last place is that of an empty history's only "item".
        self.recency = nn.Parameter(torch.zeros(config.max_history + 1))
        width = 4 * d + 1 + config.num_context
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(2 if config.head == "dcn" else 0))
        layers: list[nn.Module] = []
        for size in config.hidden_sizes:
            layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(config.dropout)]
            width = size
        self.head = nn.Sequential(*layers, nn.Linear(width, 1))
        self.beam_head = BeamHead(config.beam_inputs, config.beam_hidden) if config.beam_inputs else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.EmbeddingBag):
            nn.init.normal_(module.weight, std=TABLE_STD)
            with torch.no_grad():
                module.weight[module.padding_idx] = 0
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, SemanticIdRanker):
            nn.init.zeros_(module.recency)
            if module.beam_head is not None:
                module.beam_head.reset()
            if module.gate is not None:
                module.gate.reset()

    @property
    def reads_counts(self) -> bool:
        """Whether its answers depend on how many events items have in the training log."""
        return self.gate is not None or self.beam_head is not None

    def embed(
        self, rows: torch.Tensor, dense: torch.Tensor | None = None, counts: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Items' vectors, float32 [U, d_model], from their table rows, int [U, width], content vectors [U, D], and
        training events [U].

        Raises:
            ValueError: content vectors are missing or unasked for, or a gate has no counts.
        """
        if (dense is None) != (self.dense is None):
            raise ValueError(
                "this ranker reads content vectors: pass dense"
                if dense is None
                else "this ranker was made without content vectors (dense_dim=0)"
            )
        if self.training and self.config.row_dropout and rows.shape[1]:
            dropped = torch.rand(rows.shape, device=rows.device) < self.config.row_dropout
            rows = rows.masked_fill(dropped, self.config.budget)
        if self.gate is not None and counts is None:
            raise ValueError("this ranker weighs rows by their items' training events: pass counts")
        weights = None if self.gate is None else self.gate(counts, rows.shape[1]).to(self.table.weight.dtype)
        vectors: Any = self.table(rows, per_sample_weights=weights) if rows.shape[1] else 0.0
        return vectors if dense is None or self.dense is None else vectors + self.dense(dense)

    def forward(
        self,
        rows: torch.Tensor,
        history: torch.Tensor,
        candidates: torch.Tensor,
        dense: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        counts: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> RankerOutput:
        """Logits of candidates.

        Args:
            rows: int [U, width], table rows of the batch's distinct items.
            history: int64 [B, H], numbers of these items, oldest first, padded on the left with -1; H may be 0.
            candidates: int64 [B, C], numbers of these items; -1: none (its logit means nothing, its label is -100).
            dense: float32 [U, D], their content vectors.
            context: float32 [B, C, num_context].
            labels: float [B, C], 0 or 1; -100 where there is no candidate.
            counts: float [U], the items' training events, where there is a gate; others ignore them.
        """
        items = self.embed(rows, dense, counts)
        logits = self.score(items, history, candidates, context)
        return RankerOutput(None if labels is None else self._loss(logits, labels), logits)

    def score(
        self, items: torch.Tensor, history: torch.Tensor, candidates: torch.Tensor, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits [B, C] from embedded items [U, d_model]; the rest as for :meth:`forward`."""
        wanted = items[candidates.clamp(min=0)]
        found = self._attend(items, history, wanted)
        parts = [wanted, found, wanted * found, self._recent(items, history).unsqueeze(1) * wanted]
        parts.append((wanted * found).sum(-1, keepdim=True) / wanted.shape[-1] ** 0.5)
        if (context is None) != (self.config.num_context == 0):
            raise ValueError(f"this ranker reads {self.config.num_context} context columns: pass as many")
        if context is not None:
            parts.append(context)
        first = states = torch.cat(parts, dim=-1)
        for layer in self.cross:
            states = first * layer(states) + states
        return self.head(states).squeeze(-1).float()

    def _attend(self, items: torch.Tensor, history: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Attention of candidates [B, C, d] over their histories: [B, C, d]; zero for an empty one."""
        length = history.shape[1]
        if length == 0:
            return torch.zeros_like(wanted)
        # Project the distinct items, not every occurrence.
        keys, values = self.key(items), self.value(items)
        at = history.clamp(min=0)
        ages = torch.arange(length - 1, -1, -1, device=history.device).clamp(max=self.config.max_history)
        scores = self.query(wanted) @ keys[at].transpose(1, 2) / items.shape[-1] ** 0.5 + self.recency[ages]
        absent = (history < 0).unsqueeze(1)
        # A finite floor: a history of nothing gives weights, which the last line takes away, and no nan.
        weights = scores.masked_fill(absent, -1e4).softmax(-1).masked_fill(absent, 0.0)
        return weights @ values[at]

    def _recent(self, items: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        """Mean of the history's items, each a fifth less than the one after it: [B, d]; zero in an empty one."""
        length = history.shape[1]
        if length == 0:
            return items.new_zeros(len(history), items.shape[1])
        weights = 0.8 ** torch.arange(length - 1, -1, -1, device=history.device) * (history >= 0)
        return (weights.unsqueeze(1) @ items[history.clamp(min=0)]).squeeze(1) / weights.sum(1, keepdim=True).clamp(
            1e-6
        )

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        present = labels >= 0
        if self.config.loss == "binary":
            return F.binary_cross_entropy_with_logits(logits[present], labels[present].float())
        logits = logits.masked_fill(~present, -1e4).log_softmax(-1)
        positive = labels.clamp(min=0).float()
        rows = positive.sum(-1) > 0
        if not rows.any():
            return 0.0 * logits.sum()  # lists without a positive teach nothing
        target = positive[rows] / positive[rows].sum(-1, keepdim=True)
        return -(target * logits[rows]).sum(-1).mean()


def ranker_config(
    features: ItemFeatures, dense_dim: int = 0, semantic_ids: str | None = None, gate: bool = False, **sizes
) -> RankerConfig:
    """The configuration of a ranker for these item features, with a gate or without.

    Raises:
        DataError: a gate, and items have no rows of their own, or nothing else.
    """
    reads_vectors, own = features.uses_dense or features.decodes, features.own_columns
    if gate and not (own and (reads_vectors or len(own) < features.width)):
        raise DataError(
            "a gate weighs an item's own rows (random_hash, the longest of prefix_ngram) against what it shares with "
            f"others, and {features.kind} has not both: use random_hash+unigram, or leave the gate out."
        )
    if reads_vectors and not dense_dim:
        raise ValueError(f"{features.kind} reads content vectors: say how long they are (dense_dim)")
    return RankerConfig(
        budget=features.budget if features.tables else 1,
        dense_dim=dense_dim if reads_vectors else 0,
        gate_columns=own if gate else [],
        item_features=features.fingerprint,
        semantic_ids=semantic_ids,
        **sizes,
    )


def check_ranker(ranker: SemanticIdRanker, features: ItemFeatures, semantic_ids: str | None = None) -> None:
    """Refuse a ranker that was made for other features or another tokenizer's codes.

    Raises:
        ValueError: the fingerprints differ.
    """
    pairs = (
        ("item features", ranker.config.item_features, features.fingerprint),
        ("semantic IDs", ranker.config.semantic_ids, semantic_ids),
    )
    for name, made_for, given in pairs:
        if None not in (made_for, given) and made_for != given:
            raise ValueError(f"this ranker was trained with {name} {made_for}, not {given}: use those saved with it")


register(RankerConfig, SemanticIdRanker)
