"""Examples to tensors: tokens at the last moment."""

from __future__ import annotations

import numpy as np
import torch

from tiger.data.sequences import pad_rows
from tiger.retriever.model import Siblings
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.semantic_ids.vocabulary import PAD_TOKEN


class TrainingCollator:
    """Examples of :class:`TrainingExamples` to ``input_ids`` [B, S], ``visible`` [B, T], ``labels`` [B, T, depth].

    Args:
        tokenizer: of the catalogue.
        trie: of its tokens, where the model chooses among siblings: they come along as ``siblings`` then.
    """

    def __init__(self, tokenizer: SemanticIdTokenizer, trie: SemanticIdTrie | None = None):
        self._tokenizer = tokenizer
        self._trie = trie

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        histories = pad_rows([example["items"][:-1] for example in examples])
        targets = pad_rows([example["items"][example["first_target"] :] for example in examples])
        labels = self._tokenizer.encode(targets)
        labels[targets < 0] = -100
        firsts = np.array([example["first_target"] for example in examples])
        visible = np.where(targets >= 0, firsts[:, None] + np.arange(targets.shape[1]), 0)
        batch = {
            "input_ids": torch.from_numpy(self._tokenizer.encode_history(histories)),
            "visible": torch.from_numpy(visible),
            "labels": torch.from_numpy(labels),
        }
        if self._trie is not None:
            batch["siblings"] = siblings(self._trie, torch.from_numpy(targets).flatten())
        return batch


def siblings(trie: SemanticIdTrie, targets: torch.Tensor) -> list[Siblings]:
    """What each target, a row int64 [n] or -1 for none, is chosen among, level by level."""
    wanted = targets.ge(0).nonzero().squeeze(1)
    paths = trie.paths(targets[wanted])
    levels = []
    for level in range(trie.depth):
        children, choices, allowed = trie.follow(level, None if level == 0 else paths[:, level - 1])
        answers = paths[:, level] - children[..., 0]
        places = wanted
        if level == 0:
            choices = choices.unsqueeze(0)
        else:
            counts = allowed.sum(-1)
            several = counts > 1  # where there is one only, there is nothing to learn
            width = int(counts.max()) if len(counts) else 1
            choices = choices.masked_fill(~allowed, PAD_TOKEN)[several, :width]
            places, answers = places[several], answers[several]
        levels.append(Siblings(places, choices, answers))
    return levels


class EvaluationCollator:
    """Examples of :class:`EvaluationExamples` to ``input_ids`` [B, S], ``labels`` [B], rows, and ``seen`` [B, X], rows
    padded with -1."""

    def __init__(self, tokenizer: SemanticIdTokenizer):
        self._tokenizer = tokenizer

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        histories = pad_rows([example["history"] for example in examples])
        return {
            "input_ids": torch.from_numpy(self._tokenizer.encode_history(histories)),
            "labels": torch.tensor([example["target"] for example in examples]),
            "seen": torch.from_numpy(pad_rows([example["seen"] for example in examples])),
        }
