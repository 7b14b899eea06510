"""Collators: examples with item rows become batches of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from tiger._moved import old_names
from tiger.data.sequences import pad_rows
from tiger.retriever.child_softmax import ChildTargets
from tiger.retriever.user_tokens import with_users
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.semantic_ids.vocabulary import PAD_TOKEN


class TrainingCollator:
    """Batches of :class:`TrainingExamples`: the arguments of :func:`tiger.retriever.model.next_item_loss`.

    These are ``input_ids`` [B, S], user tokens first where there are any, ``num_visible_items`` [B, T], ``labels``
    [B, T, depth] and, with a trie, ``children``, one :class:`ChildTargets` per level.

    Args:
        tokenizer: of the catalog.
        trie: of its tokens, for a model whose ``output_softmax`` is ``children`` or ``items``; else None.
        sums_items: whether it is ``items``.
    """

    def __init__(self, tokenizer: SemanticIdTokenizer, trie: SemanticIdTrie | None = None, sums_items: bool = False):
        self._tokenizer = tokenizer
        self._trie = trie
        self.sums_items = sums_items

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor | list[ChildTargets]]:
        histories = pad_rows([example["items"][:-1] for example in examples])
        targets = pad_rows([example["items"][example["first_target"] :] for example in examples])
        labels = self._tokenizer.encode(targets)
        labels[targets < 0] = -100
        firsts = np.array([example["first_target"] for example in examples])
        num_visible = np.where(targets >= 0, firsts[:, None] + np.arange(targets.shape[1]), 0)
        batch: dict[str, torch.Tensor | list[ChildTargets]] = {
            "input_ids": history_tokens(self._tokenizer, histories, examples),
            "num_visible_items": torch.from_numpy(num_visible),
            "labels": torch.from_numpy(labels),
        }
        if self._trie is not None:
            batch["children"] = child_targets(self._trie, torch.from_numpy(targets).flatten(), self.sums_items)
        return batch


def history_tokens(tokenizer: SemanticIdTokenizer, histories: np.ndarray, examples: list[dict]) -> torch.Tensor:
    """Tokens of histories, rows int64 [B, n]: int64 [B, S], with a user token first where examples name a ``user``."""
    tokens = tokenizer.encode_history(histories)
    if "user" in examples[0]:
        tokens = with_users(tokens, tokenizer, np.array([example["user"] for example in examples]))
    return torch.from_numpy(tokens)


def child_targets(trie: SemanticIdTrie, targets: torch.Tensor, sums_items: bool = False) -> list[ChildTargets]:
    """The softmax over children that each target needs, per level.

    Args:
        targets: int64 [n], rows of the trie's table; -1 where there is no target.
        sums_items: for a model whose ``output_softmax`` is ``items``.
    """
    wanted = targets.ge(0).nonzero().squeeze(1)
    paths = trie.paths(targets[wanted])
    levels = []
    for level in range(trie.depth):
        children, choices, allowed = trie.follow(level, None if level == 0 else paths[:, level - 1])
        answers = paths[:, level] - children[..., 0]
        places, owners = wanted, None
        if level == 0:
            if sums_items:
                items = trie.items_by_first()
                choices, owners = items.tokens, items.nodes
            choices = choices.unsqueeze(0)
        else:
            counts = allowed.sum(-1)
            several = counts > 1  # a single child has probability 1: nothing to learn
            width = int(counts.max()) if len(counts) else 1
            choices = choices.masked_fill(~allowed, PAD_TOKEN)[several, :width]
            places, answers = places[several], answers[several]
        levels.append(ChildTargets(places, choices, answers, owners))
    return levels


class EvaluationCollator:
    """Batches of :class:`EvaluationExamples`.

    These hold ``input_ids`` [B, S], ``labels`` [B], the targets' rows, and ``seen`` [B, X], the rows of all items of
    the history, each once and ascending, padded with -1.
    """

    def __init__(self, tokenizer: SemanticIdTokenizer):
        self._tokenizer = tokenizer

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        histories = pad_rows([example["history"] for example in examples])
        return {
            "input_ids": history_tokens(self._tokenizer, histories, examples),
            "labels": torch.tensor([example["target"] for example in examples]),
            "seen": torch.from_numpy(pad_rows([np.unique(example["seen"]) for example in examples])),
        }


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
