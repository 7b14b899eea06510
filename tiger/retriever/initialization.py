"""Where tokens start: near what is known of their items before training, or near their kin when a catalogue grows."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from transformers import T5ForConditionalGeneration

from tiger.semantic_ids.tokenizer import SemanticIdTokenizer


@torch.no_grad()
def start_from_items(
    model: T5ForConditionalGeneration,
    tokenizer: SemanticIdTokenizer,
    *vectors: np.ndarray,
    share: float = 1.0,
) -> None:
    """Let every token start near the mean of its items' vectors, so that similar tokens start alike.

    Each kind of vectors has dimensions of its own: added up, they would be noise to one another.

    Args:
        vectors: what is known of the items (of their texts, of the log), each float [n, any], side by side as wide as
            the model. Each gets unit variance as a whole; how much its dimensions differ stays.
        share: of the variance that comes from the vectors, 0..1. The rest is random.

    Raises:
        ValueError: not one vector an item, another width than the model's, or ``share`` lies elsewhere.
    """
    embeddings = model.shared.weight
    size = embeddings.shape[1]
    if any(len(part) != len(tokenizer) for part in vectors):
        raise ValueError(f"give vectors of the tokenizer's {len(tokenizer)} items, one each")
    if sum(part.shape[1] for part in vectors) != size:
        widths = " + ".join(str(part.shape[1]) for part in vectors)
        raise ValueError(f"the model is {size} wide, the vectors are {widths or 'none'}")
    if not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    parts = [torch.from_numpy(np.asarray(part)).to(embeddings) for part in vectors]
    parts = [part - part.mean(dim=0) for part in parts]
    known = torch.cat([part / part.std().clamp(min=1e-12) for part in parts], dim=1) * embeddings.std()
    for tokens in tokenizer.token_table.T:
        tokens = torch.from_numpy(tokens).long().to(embeddings.device)
        counts = torch.bincount(tokens, minlength=len(embeddings)).unsqueeze(-1)
        means = torch.zeros_like(embeddings).index_add_(0, tokens, known) / counts.clamp(min=1)
        used = counts.squeeze(-1) > 0
        means = means[used]
        random = torch.randn(means.shape).to(means) * means.std()
        embeddings[used] = share**0.5 * means + (1 - share) ** 0.5 * random


@torch.no_grad()
def start_as_neighbours(model: T5ForConditionalGeneration, gain: float = 3.0) -> None:
    """Let the T5 start by answering with what is near the items of the history, as their vectors have it.

    The first decoder layer's cross-attention passes on what it looks at, turned and turned back; every other layer
    adds nothing yet. So the tokens that start near their items' vectors are of use from the first step, where random
    matrices would have to be unlearned.

    Args:
        gain: how much louder the history is than the tokens written so far.
    """
    for stack in (model.encoder, model.decoder):
        for block in stack.block:
            block.layer[0].SelfAttention.o.weight.zero_()
            block.layer[-1].DenseReluDense.wo.weight.zero_()
    first, *others = (block.layer[1].EncDecAttention for block in model.decoder.block)
    for attention in others:
        attention.o.weight.zero_()
    nn.init.orthogonal_(first.v.weight)
    first.o.weight.copy_(gain * first.v.weight.T)
    model.shared.weight[model.config.decoder_start_token_id] *= 0.1  # it says nothing, so it should not be loud


@torch.no_grad()
def grow_vocabulary(model: T5ForConditionalGeneration, tokenizer: SemanticIdTokenizer) -> None:
    """Give the model the tokens that its tokenizer has won since training.

    A new collision token starts at random (equal additions to equal models give equal models), a new first code in
    the middle of the others. A longer new prefix starts where its parent is, moved by what its last code means
    elsewhere: the mean step from parent to child over the prefixes of that level with the same code.
    """
    known = model.config.vocab_size
    if tokenizer.vocab_size <= known:
        return
    with torch.random.fork_rng():
        torch.manual_seed(tokenizer.vocab_size)
        model.resize_token_embeddings(tokenizer.vocab_size)
    if tokenizer.tokens == "codes":
        return
    embeddings = model.shared.weight
    table, codes = (
        torch.from_numpy(part).long().to(embeddings.device) for part in (tokenizer.token_table, tokenizer.semantic_ids)
    )
    for level in range(tokenizer.depth):
        tokens, first = np.unique(tokenizer.token_table[:, level], return_index=True)
        tokens, first = (torch.from_numpy(part).long().to(embeddings.device) for part in (tokens, first))
        kinds, old = codes[first, level], tokens < known
        if old.all():
            continue
        if level == 0:  # no other prefix has its code: in the middle of all
            embeddings[tokens[~old]] = embeddings[tokens[old]].mean(dim=0)
            continue
        parents = embeddings[table[first, level - 1]]
        steps = torch.zeros(int(kinds.max()) + 1, embeddings.shape[1]).to(embeddings)
        counts = torch.zeros(len(steps)).to(embeddings)
        if level < tokenizer.num_codebooks:  # the collision token means nothing
            steps.index_add_(0, kinds[old], (embeddings[tokens] - parents)[old])
            counts.index_add_(0, kinds[old], torch.ones(int(old.sum())).to(embeddings))
        embeddings[tokens[~old]] = (parents + steps[kinds] / counts[kinds].clamp(min=1).unsqueeze(-1))[~old]
