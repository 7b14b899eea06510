"""User tokens: one of some hundred or thousand tokens before the history, by a hash of the user's id.

TIGER (arXiv 2305.05065, section 4) has 2,000 of them. Users who share a token share what it learns, those who came
after training among them. One more stands for an unknown user; training puts it in the place of the true one now and
then, so that a history without a user is no input that the model has never read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from transformers import T5ForConditionalGeneration

from tiger.retriever.config import item_vocabulary, reads_users
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError

# Share of training examples whose user is unknown. Set by hand, not tuned.
UNKNOWN_SHARE = 0.1


def user_array(
    model: T5ForConditionalGeneration, user_ids: Sequence[str | None] | None, count: int
) -> pa.Array | None:
    """User ids that a caller gives with histories, as a string array; None where there are none.

    Args:
        model: that reads them.
        user_ids: one per history; None for an unknown user. Those that training has not seen share tokens of others.
        count: number of histories.

    Raises:
        DataError: not as many ids as histories, or the model has no user tokens.
    """
    if user_ids is None:
        return None
    if not reads_users(model):
        raise DataError("this model reads no users: leave the users out, or train with user_tokens.")
    if isinstance(user_ids, str) or len(user_ids) != count:
        raise DataError(f"user_ids must be a list of one id, or None, per history, of which there are {count}.")
    # No log holds what can't be written as UTF-8: its user is a new one.
    return pa.array([None if user is None else str(user).encode(errors="replace") for user in user_ids], pa.string())


def with_users(tokens: np.ndarray, tokenizer: SemanticIdTokenizer, users: np.ndarray) -> np.ndarray:
    """Histories with a user token before each: int64 [n, 1 + S].

    Args:
        tokens: int64 [n, S], see :meth:`SemanticIdTokenizer.encode_history`.
        tokenizer: of the catalog; the tokens of users follow those of its items.
        users: int64 [n], see :func:`tiger.data.users.user_numbers`.
    """
    return np.concatenate([(tokenizer.vocab_size + np.asarray(users))[:, None], tokens], axis=1)


def forget_some_users(model: T5ForConditionalGeneration, tokens: torch.Tensor) -> torch.Tensor:
    """Histories [B, S] with the token of an unknown user in the place of a share of the users', drawn anew."""
    forgotten = torch.rand(len(tokens), device=tokens.device) < UNKNOWN_SHARE
    users = tokens[:, 0].masked_fill(forgotten, item_vocabulary(model))
    return torch.cat([users.unsqueeze(1), tokens[:, 1:]], dim=1)
