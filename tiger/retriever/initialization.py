"""Initialization of the retriever: token embeddings from item vectors, for training and for items added later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import T5ForConditionalGeneration

from tiger._moved import old_names
from tiger.retriever.config import item_vocabulary
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer

# Factors of the nearest-neighbor initialization. Both were set by hand and not tuned.
HISTORY_GAIN = 3.0
START_TOKEN_SCALE = 0.1


@torch.no_grad()
def init_token_embeddings(
    model: T5ForConditionalGeneration,
    tokenizer: SemanticIdTokenizer,
    *vectors: np.ndarray,
    share: float = 1.0,
) -> None:
    """Initialize each token's embedding to the mean vector of the items that have the token.

    Different kinds of vectors (of texts, of the log) get separate dimensions: added up, each would be noise to the
    other.

    Args:
        model: changed in place.
        vectors: per kind, float [n, any]; their widths add up to ``d_model``. Each kind is centered and scaled to the
            same variance as a whole, so the relative sizes of its dimensions stay.
        share: share of the variance that comes from the vectors, from 0 to 1; the rest is random.

    Raises:
        ValueError: the number of vectors is not that of the items, the widths don't add up to ``d_model``, or
            ``share`` is out of range.
    """
    embeddings = model.shared.weight
    size = embeddings.shape[1]
    if any(len(part) != len(tokenizer) for part in vectors):
        raise ValueError(f"each kind of vectors needs one for each of the tokenizer's {len(tokenizer)} items")
    if sum(part.shape[1] for part in vectors) != size:
        widths = " + ".join(str(part.shape[1]) for part in vectors)
        raise ValueError(f"the model is {size} wide, the vectors are {widths or 'none'}")
    if not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    parts = [torch.from_numpy(np.asarray(part, dtype=np.float32)).to(embeddings) for part in vectors]
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
def init_nearest_neighbor(model: T5ForConditionalGeneration, gain: float = HISTORY_GAIN) -> None:
    """Initialize so that the untrained T5 returns nearest neighbors of the history's items.

    To be called after :func:`init_token_embeddings`. The first decoder layer's cross-attention passes on the encoder's
    states: its value projection is a random rotation, its output projection the inverse. All other layers add zero.
    The initialized embeddings are useful from the first step on; random matrices would have to be unlearned first.

    Args:
        model: changed in place.
        gain: scale of the history's states relative to those of the target's own tokens.
    """
    encoder: Any = model.encoder  # transformers leaves the types of its parts open
    decoder: Any = model.decoder
    for stack in (encoder, decoder):
        for block in stack.block:
            block.layer[0].SelfAttention.o.weight.zero_()
            block.layer[-1].DenseReluDense.wo.weight.zero_()
    first, *others = (block.layer[1].EncDecAttention for block in decoder.block)
    for attention in others:
        attention.o.weight.zero_()
    nn.init.orthogonal_(first.v.weight)
    first.o.weight.copy_(gain * first.v.weight.T)
    model.shared.weight[model.config.decoder_start_token_id] *= START_TOKEN_SCALE  # it carries no information
    model.shared.weight[item_vocabulary(model) :] *= START_TOKEN_SCALE  # nor do those of users, yet


@torch.no_grad()
def grow_vocabulary(model: T5ForConditionalGeneration, tokenizer: SemanticIdTokenizer) -> None:
    """Add embeddings for the tokens that items added since training have brought.

    A new collision token is random, with a fixed seed: equal additions to equal models give equal models. A new prefix
    of one code gets the mean of that level. A longer new prefix gets its parent's embedding plus the mean difference
    between child and parent over the known prefixes of its level with the same last code.

    Args:
        model: changed in place.
        tokenizer: with the items added.
    """
    known, before = item_vocabulary(model), model.config.vocab_size
    if tokenizer.vocab_size <= known:
        return
    with torch.random.fork_rng():
        torch.manual_seed(tokenizer.vocab_size)
        model.resize_token_embeddings(tokenizer.vocab_size + before - known)
    for weights in {model.shared.weight, model.lm_head.weight}:
        weights[known:] = weights[known:].roll(known - before, dims=0)  # tokens of users stay the last ones
    if tokenizer.tokens == "codes":
        return
    embeddings = model.shared.weight
    table, codes = (
        torch.from_numpy(part).long().to(embeddings.device) for part in (tokenizer.token_table, tokenizer.semantic_ids)
    )
    for level in range(tokenizer.depth):
        unique = np.unique(tokenizer.token_table[:, level], return_index=True)
        tokens, first = (torch.from_numpy(part).long().to(embeddings.device) for part in unique)
        kinds, old = codes[first, level], tokens < known
        if old.all():
            continue
        if level == 0:  # no other prefix has its code: take the mean of the level
            embeddings[tokens[~old]] = embeddings[tokens[old]].mean(dim=0)
            continue
        parents = embeddings[table[first, level - 1]]
        steps = torch.zeros(int(kinds.max()) + 1, embeddings.shape[1]).to(embeddings)
        counts = torch.zeros(len(steps)).to(embeddings)
        if level < tokenizer.num_codebooks:  # a collision token carries no information
            steps.index_add_(0, kinds[old], (embeddings[tokens] - parents)[old])
            counts.index_add_(0, kinds[old], torch.ones(int(old.sum())).to(embeddings))
        embeddings[tokens[~old]] = (parents + steps[kinds] / counts[kinds].clamp(min=1).unsqueeze(-1))[~old]


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
