"""Log-probabilities of given items after a history, without a search."""

from __future__ import annotations

import torch
from transformers import T5ForConditionalGeneration

from tiger.retriever.config import history_item_length, pad_token
from tiger.retriever.inference_decoder import PackedDecoder
from tiger.retriever.inference_model import packed
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils import devices

# Numbers of one batch's largest tensor, float32: 256 MB. Not tuned.
_NUMBERS = 2**26


@torch.inference_mode()
def item_log_probs(
    model: T5ForConditionalGeneration, trie: SemanticIdTrie, histories: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """The log-probability of each of the same items after each history.

    Args:
        model: a T5 over the trie's tokens; it computes in float32.
        trie: on the model's device.
        histories: int64 [B, S], history tokens, padded on the right; an empty history is all padding.
        rows: int64 [R], rows of the trie's table.

    Returns:
        float32 [B, R], as :func:`tiger.retriever.beam_search.beam_search` scores them.
    """
    width = max(*trie.widths, model.config.vocab_size)
    users = max(1, _NUMBERS // max(1, len(rows) * width))
    weights = packed(model, torch.float32)
    with devices.without_autocast(histories.device):
        return torch.cat([_score(model, weights, trie, part, rows) for part in histories.split(users)])


def _score(model, weights, trie: SemanticIdTrie, histories: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """:func:`item_log_probs` of a few histories."""
    longest = max(1, int(histories.ne(pad_token(model)).sum(-1).max()))
    decoder = PackedDecoder(weights, weights.encode(histories[:, :longest], history_item_length(model, trie.depth)))
    paths = trie.paths(rows)
    shape = (len(histories), len(rows))
    scores = torch.zeros(shape, device=histories.device)
    tokens = histories.new_full((len(histories), 1), decoder.start_token)
    for level in range(trie.depth):
        children, choices, allowed = trie.follow(level, None if level == 0 else paths[:, level - 1])
        if level:
            children, choices, allowed = (
                part.expand(*shape, trie.widths[level]) for part in (children, choices, allowed)
            )
        else:
            allowed = allowed.expand(len(histories), 1, -1)
        log_probs = decoder.step(tokens, choices, allowed, trie).expand(*shape, -1)
        place = paths[:, level] - children[..., 0]  # children of a node are neighbors
        scores += log_probs.gather(-1, place.expand(shape).unsqueeze(-1)).squeeze(-1)
        if level < trie.depth - 1:
            # On the first level one beam becomes one per item; after it, each goes on.
            beams = torch.arange(len(rows), device=rows.device) * (level > 0)
            decoder.keep(beams.expand(shape))
            tokens = trie.tokens[level][paths[:, level]].long().expand(shape)
    return scores
