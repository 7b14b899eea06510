"""Softmax over the children of a prefix: the tokens that may follow it, in place of the whole vocabulary.

A first token stands for many items, of which its vector is a mean. With ``output_softmax="items"`` its probability is
the sum, over the items that begin with it, of a softmax over all items, each by the vector of its last token: one item
that is likely makes its first token likely, where a mean would hide it. On later levels few items share a prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from tiger.retriever.config import pad_token
from tiger.retriever.hashed_prefixes import HashedPrefixes, row_sums
from tiger.semantic_ids.trie import SemanticIdTrie


@dataclass
class ChildTargets:
    """Targets of a batch on one level, each with the tokens that may follow its prefix.

    Args:
        places: int64 [Q], positions among the batch's B * T targets; those with a single child are left out.
        choices: int64 [Q or 1, W], the children of each prefix; padded with the pad token.
        answers: int64 [Q], position in ``choices`` of the right one.
        owners: int64 [W]; only where probabilities of items are summed. Then ``choices`` [1, W] are the last tokens of
            all items, ``owners`` the child that each of them is under, and ``answers`` numbers of children.
    """

    places: torch.Tensor
    choices: torch.Tensor
    answers: torch.Tensor
    owners: torch.Tensor | None = None

    def to(self, *args, **kwargs) -> ChildTargets:
        """Like ``Tensor.to``."""
        return self._map(lambda part: part.to(*args, **kwargs))

    def pin_memory(self) -> ChildTargets:
        """A copy in pinned memory, which a ``DataLoader`` asks for: a GPU reads it while the host goes on."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> ChildTargets:
        owners = None if self.owners is None else change(self.owners)
        return ChildTargets(change(self.places), change(self.choices), change(self.answers), owners)


def child_loss(
    model: T5ForConditionalGeneration, states: torch.Tensor, children: list[ChildTargets], labels: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of targets over the children of their prefixes, summed over levels and targets.

    Args:
        model: a T5 whose output layer is its input embeddings.
        states: input of the output layer, [B * T, L, d].
        children: one per level.
        labels: int64 [B, T, L], the targets' tokens.
    """
    # One look-up for all levels: its gradient is as large as the vocabulary.
    vectors = _vectors(model, children, labels.flatten(0, 1)).split([level.choices.numel() for level in children])
    total = states.new_zeros((), dtype=torch.float32)
    for at, (level, candidates) in enumerate(zip(children, vectors)):
        if len(level.places):
            candidates = candidates.view(*level.choices.shape, -1)
            logits = choice_logits(states[level.places, at], level.choices, candidates, pad_token(model))
            if level.owners is None:
                total = total + F.cross_entropy(logits, level.answers, reduction="sum")
            else:
                total = total + _sum_loss(logits, level.owners, level.answers)
    return total


def _sum_loss(logits: torch.Tensor, owners: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Minus the log of the probability that a softmax gives to the items of the answers, summed over targets.

    Args:
        logits: float32 [Q, W], of all items.
        owners, answers: see :class:`ChildTargets`.
    """
    own = logits.masked_fill(owners != answers.unsqueeze(-1), float("-inf")).logsumexp(-1)
    return (logits.logsumexp(-1) - own).sum()


def first_logits(
    states: torch.Tensor, table: torch.Tensor, trie: SemanticIdTrie, pad: int, learned: int = 0
) -> torch.Tensor:
    """Logits of first tokens from those of all items: the log of the sum of their exponentials, float32 [..., W].

    Args:
        states: input of the output layer, [..., d].
        table: its rows, [tokens, d].
        trie: of the items; W is the width of its first level.
        pad: the token that pads.
        learned: see :meth:`tiger.semantic_ids.items_by_first.ItemsByFirst.weighed`.
    """
    items = trie.items_by_first(learned)
    logits = choice_logits(states, items.tokens, items.rows(table), pad)
    logits = logits if items.log_weights is None else logits + items.log_weights
    top = logits.amax(-1, keepdim=True)
    sums = logits.new_zeros(*logits.shape[:-1], trie.widths[0]).index_add_(-1, items.nodes, (logits - top).exp())
    # The least of them can round to zero, and must stay an answer.
    return sums.clamp(min=torch.finfo(sums.dtype).tiny).log() + top


def _vectors(model: T5ForConditionalGeneration, children: list[ChildTargets], labels: torch.Tensor) -> torch.Tensor:
    """Vectors of all levels' choices in a row, [n, d]; ``labels`` are [B * T, L]."""
    hashed = HashedPrefixes.of(model)
    if hashed is None:
        return model.shared(torch.cat([level.choices.flatten() for level in children]))
    parents = hashed.parent_keys(labels).unbind(-1)
    rows = [
        # On the first level the parent of all is the empty prefix, and there is one row of choices.
        hashed.rows(keys[level.places][: len(level.choices)].unsqueeze(-1), level.choices).flatten(0, -2)
        for keys, level in zip(parents, children)
    ]
    return row_sums(model.shared, torch.cat(rows))


def choice_logits(states: torch.Tensor, choices: torch.Tensor, vectors: torch.Tensor, pad: int) -> torch.Tensor:
    """Logits of some tokens: float32, the shape of ``choices``, -inf at padding.

    Args:
        states: input of the output layer, [..., d].
        choices: int64 [..., W], or [1, W] or [W] where all states have the same.
        vectors: rows of the output layer for ``choices``, [..., W, d].
        pad: the token that pads ``choices``.
    """
    if choices.numel() == choices.shape[-1]:
        logits = states @ vectors.view(-1, vectors.shape[-1]).to(states.dtype).T
    else:
        logits = (vectors.to(states.dtype) @ states.unsqueeze(-1)).squeeze(-1)
    return logits.float().masked_fill(choices.eq(pad), float("-inf"))
