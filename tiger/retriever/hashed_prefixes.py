"""Vectors of prefixes from a table of a fixed size: rows of codes, and rows that prefixes are hashed into.

A prefix's vector is that of its parent, plus the row of its last token, plus ``HASHES`` rows by hashes of the whole
prefix. (Hashed prefixes beside codes: arXiv 2606.00324.) So prefixes have vectors of their own although the table
does not grow with the catalog, and one that no item had yet has a vector already. An item takes one place in a
history, with the vector of its whole semantic ID. Among siblings the parent's part cancels: the softmax over children
reads only what a token adds.

Two kinds of prefixes add no hashed rows, for they would say nothing that other rows don't: those of a single code, and
the first item with its codes, which has the vector of the codes. So there are about as many hashed prefixes as items.

All rows lie in the T5's own table of embeddings, those of tokens first, the hashed ones last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from tiger.retriever.config import history_item_length, retriever_config
from tiger.retriever.layer_weights import is_plain
from tiger.semantic_ids.vocabulary import PAD_TOKEN

# Rows of a prefix. With one, prefixes that share it differ by their codes alone, and of the variance of Beauty's items
# the initialization of 20,000 rows misses 10%; with two 3%, with three 2%.
HASHES = 2
# Part of the file format: other numbers would find other rows. All products stay below 2 ** 63.
_PRIME = (1 << 31) - 1
_STEP = 1_103_515_245
_MULTIPLIERS = (1_540_483_477, 2_002_486_417, 1_181_783_497, 1_274_126_177)


@dataclass(frozen=True)
class HashedPrefixes:
    """Places of the rows of prefixes in the table of embeddings.

    A *key* is a hash of a prefix, from which those of its children follow; that of the empty prefix is 0.

    Args:
        first: the first hashed row.
        count: number of hashed rows.
        unhashed_token: the token that adds no hashed rows, beside padding and those of the first level.
        depth: tokens per item.
        has_user: whether a user token stands before a history.
    """

    first: int
    count: int
    unhashed_token: int
    depth: int
    has_user: bool

    @classmethod
    def of(cls, model: T5ForConditionalGeneration) -> HashedPrefixes | None:
        """Those of a model; None: it has no hashed rows."""
        settings = retriever_config(model)
        if not settings.hashed_rows:
            return None
        assert settings.history_item_length is not None  # RetrieverConfig checks it
        return cls(
            model.config.vocab_size - settings.hashed_rows,
            settings.hashed_rows,
            settings.unhashed_token,
            settings.history_item_length,
            settings.user_tokens > 0,
        )

    def next_keys(self, keys: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Keys of prefixes that go on by a token: int64, of the shape that the arguments broadcast to."""
        return 1 + _mix(keys * _STEP % _PRIME + tokens, _MULTIPLIERS[-1]) % (_PRIME - 1)

    def parent_keys(self, tokens: torch.Tensor) -> torch.Tensor:
        """For each token of items, int64 [..., L], the key of the prefix before it."""
        keys = [torch.zeros_like(tokens[..., 0])]
        for level in range(tokens.shape[-1] - 1):
            keys.append(self.next_keys(keys[-1], tokens[..., level]))
        return torch.stack(keys, dim=-1)

    def rows(self, parents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Rows that tokens add to their parents' vectors; the pad token's where there are fewer.

        Args:
            parents: int64, keys of the prefixes before the tokens, of a shape that broadcasts to theirs.
            tokens: int64 [...].

        Returns:
            int64 [..., 1 + HASHES].
        """
        keys = self.next_keys(parents, tokens)
        none = parents.eq(0) | tokens.eq(PAD_TOKEN) | tokens.eq(self.unhashed_token)
        found = [(self.first + _mix(keys, by) % self.count).masked_fill(none, PAD_TOKEN) for by in _hashes()]
        return torch.stack([tokens.expand_as(keys), *found], dim=-1)

    def items(self, histories: torch.Tensor) -> torch.Tensor:
        """Tokens of histories, int64 [B, S], by place: [B, places, depth]. A user, and an empty history's only place,
        is a token and padding."""
        if self.has_user:
            histories = torch.cat([F.pad(histories[:, :1], (0, self.depth - 1)), histories[:, 1:]], dim=1)
        return F.pad(histories, (0, -histories.shape[1] % self.depth)).unflatten(1, (-1, self.depth))

    def path_vectors(self, table: nn.Module | torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The vector of each prefix of semantic IDs, int64 [..., L]: [..., L, d]."""
        return row_sums(table, self.rows(self.parent_keys(tokens), tokens)).cumsum(-2)

    def item_vectors(self, table: nn.Module | torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The vectors of whole semantic IDs, int64 [..., depth]: [..., d]."""
        return row_sums(table, self.rows(self.parent_keys(tokens), tokens).flatten(-2))


def position_item_length(model: T5ForConditionalGeneration, depth: int) -> int:
    """Places that an item takes in the encoder; ``depth`` is the length of a semantic ID."""
    return 1 if retriever_config(model).hashed_rows else history_item_length(model, depth)


def row_sums(table: nn.Module | torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Sums of rows of a table, [..., d]; padding counts as 0.

    Args:
        table: an embedding layer, plain or not, or its table [rows, d].
        rows: int64 [..., K].
    """
    if isinstance(table, nn.Module) and not is_plain(table):
        return table(rows).masked_fill(rows.eq(PAD_TOKEN).unsqueeze(-1), 0).sum(-2)
    weight = table.weight if isinstance(table, nn.Module) else table
    sums = F.embedding_bag(rows.flatten(0, -2), weight, mode="sum", padding_idx=PAD_TOKEN)  # type: ignore[arg-type]
    return sums.view(*rows.shape[:-1], -1)


def _hashes() -> tuple[int, ...]:
    return _MULTIPLIERS[:HASHES]


def _mix(numbers: torch.Tensor, multiplier: int) -> torch.Tensor:
    """A hash of integers from 0 to 2 ** 32: int64, from 0 to the prime."""
    mixed = (numbers ^ (numbers >> 15)) % _PRIME * multiplier % _PRIME
    return (mixed ^ (mixed >> 13)) % _PRIME * _STEP % _PRIME
