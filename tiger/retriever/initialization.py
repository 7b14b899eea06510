"""Initialization of the retriever: token embeddings from item vectors, for training and for items added later."""

from __future__ import annotations

import collections
import copy
import itertools
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import T5ForConditionalGeneration

from tiger._moved import old_names
from tiger.retriever.config import item_vocabulary, reads_users, retriever_config
from tiger.retriever.hashed_initialization import write_hashed
from tiger.retriever.hashed_prefixes import HashedPrefixes
from tiger.retriever.inference_model import follow
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.vocabulary import PAD_TOKEN
from tiger.utils.growing import Growing

# Factors of the nearest-neighbor initialization. Both were set by hand and not tuned.
HISTORY_GAIN = 3.0
START_TOKEN_SCALE = 0.1
# Columns of vectors, and rows of random numbers, that are held at once: 100 MB at a million items.
_COLUMNS = 32
_ROWS = 1 << 16


@torch.no_grad()
def init_token_embeddings(
    model: T5ForConditionalGeneration,
    tokenizer: SemanticIdTokenizer,
    *vectors: np.ndarray,
    share: float = 1.0,
) -> None:
    """Initialize each token's embedding to the mean vector of the items that have the token.

    Where prefixes are hashed, their vectors come as close to the means of the items beneath as the rows allow.
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
    columns = [column for part in vectors for column in _standardized(part, embeddings)]
    if (hashed := HashedPrefixes.of(model)) is not None:
        write_hashed(embeddings, hashed, tokenizer, columns, share)
        return
    for tokens in tokenizer.token_table.T:
        tokens = torch.from_numpy(tokens).long().to(embeddings.device)
        counts = torch.bincount(tokens, minlength=len(embeddings))
        used = counts.nonzero().squeeze(1)
        place = (counts > 0).cumsum(0)[tokens] - 1
        counts = counts[used].unsqueeze(-1)
        means = torch.empty((len(used), size if share < 1 else 0)).to(embeddings)
        start = 0
        for block in columns:
            known = block()
            found = torch.zeros(len(used), known.shape[1]).to(embeddings).index_add_(0, place, known) / counts
            of_block = slice(start, start + known.shape[1])
            (embeddings if share == 1 else means)[used if share == 1 else slice(None), of_block] = found
            start = of_block.stop
        # Drawn in any case, so that what is drawn after it doesn't depend on the share.
        random = _normal(len(used), size)
        if share < 1:
            noise = torch.cat(list(random)).to(means) * means.std()
            embeddings[used] = share**0.5 * means + (1 - share) ** 0.5 * noise
        else:
            collections.deque(random, maxlen=0)


def _normal(rows: int, size: int) -> Iterator[torch.Tensor]:
    """Normal numbers [rows, size] in parts, the same as in one piece where ``size`` is 16 or more."""
    for start in range(0, rows, _ROWS):
        yield torch.randn(min(_ROWS, rows - start), size)


def _standardized(part: np.ndarray, like: torch.Tensor) -> list[Callable[[], torch.Tensor]]:
    """Vectors [n, any], centered and scaled as a whole to the standard deviation of ``like``, a few columns at a time:
    of a million items, all columns in one piece are a gigabyte for each operation."""
    vectors = torch.from_numpy(np.asarray(part, dtype=np.float32))  # some devices have no float64
    mean = vectors.to(like).mean(dim=0)
    scale = (vectors.to(like) - mean).std().clamp(min=1e-12)
    spread = like.std()

    def block(start: int) -> torch.Tensor:
        stop = start + _COLUMNS
        return (vectors[:, start:stop].to(like) - mean[start:stop]) / scale * spread

    return [partial(block, start) for start in range(0, vectors.shape[1], _COLUMNS)]


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
    users = item_vocabulary(model)
    model.shared.weight[users : users + retriever_config(model).user_rows] *= START_TOKEN_SCALE  # nor do these, yet


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
        # Prefixes are written below: to draw them like the others takes longer than all else.
        like_others = tokenizer.tokens != "prefixes"
        model.resize_token_embeddings(tokenizer.vocab_size + before - known, mean_resizing=like_others)
    for weights in {model.shared.weight, model.lm_head.weight}:
        weights[known:] = weights[known:].roll(known - before, dims=0)  # of users, and hashed ones, stay the last
    if tokenizer.tokens == "prefixes":
        _write_prefixes(model.shared.weight, tokenizer, known)


@torch.no_grad()
def with_new_tokens(model: T5ForConditionalGeneration, tokenizer: SemanticIdTokenizer) -> T5ForConditionalGeneration:
    """A model with embeddings for the tokens of added items, see :func:`grow_vocabulary`; the given one stays.

    Both share all other weights and, for prefixes, the table of embeddings, which has room at its end: the new rows
    are written and nothing is copied, except when the room is used up.
    """
    weight, known = model.shared.weight, item_vocabulary(model)
    if tokenizer.vocab_size <= known:
        return model
    shares = tokenizer.tokens == "prefixes" and not reads_users(model) and model.lm_head.weight is weight
    if not shares:
        larger = copy.deepcopy(model)
        grow_vocabulary(larger, tokenizer)
        return larger
    table = _tables.setdefault(model, Growing(weight.detach()))
    if table.values.data_ptr() != weight.data_ptr():  # the model got other weights since
        table = Growing(weight.detach())
    grown = table.append(torch.zeros(tokenizer.vocab_size - known, weight.shape[1]).to(weight))
    _write_prefixes(grown.values, tokenizer, known)
    others = {id(one): one for one in itertools.chain(model.parameters(), model.buffers())}
    parameter = nn.Parameter(grown.values, requires_grad=weight.requires_grad)
    larger = copy.deepcopy(model, others | {id(weight): parameter})
    larger.config.vocab_size = larger.vocab_size = tokenizer.vocab_size
    for module in larger.modules():
        if isinstance(module, nn.Embedding) and module.weight is parameter:
            module.num_embeddings = len(parameter)
    larger.lm_head.out_features = len(parameter)
    _tables[larger] = grown
    follow(model, larger)
    return larger


_tables: weakref.WeakKeyDictionary[T5ForConditionalGeneration, Growing[torch.Tensor]] = weakref.WeakKeyDictionary()


def _write_prefixes(embeddings: torch.Tensor, tokenizer: SemanticIdTokenizer, known: int) -> None:
    """Write the embeddings of prefixes from token ``known`` on, see :func:`grow_vocabulary`."""
    device = embeddings.device
    table, semantic_ids = tokenizer.token_table, tokenizer.semantic_ids
    for level in range(tokenizer.depth):
        column, codes = table[:, level], semantic_ids[:, level]
        rows = np.flatnonzero(column >= known)
        if not len(rows):
            continue
        if level == 0:  # no other prefix has its code: take the mean of the level, or of all where no item is left
            others = np.flatnonzero(np.bincount(column, minlength=known)[:known])
            others = others if len(others) else np.arange(PAD_TOKEN + 1, known)
            mean = embeddings[torch.from_numpy(others).to(device)].mean(dim=0)
            _write(embeddings, torch.from_numpy(np.unique(column[rows])).long().to(device), mean)
            continue
        kinds = np.unique(codes[rows])
        if level < tokenizer.num_codebooks:  # a collision token carries no information
            rows = np.union1d(rows, np.flatnonzero(np.isin(codes, kinds)))
        unique, first = np.unique(column[rows], return_index=True)
        tokens, first = torch.from_numpy(unique).long().to(device), rows[first]
        place = torch.from_numpy(np.searchsorted(kinds, codes[first])).to(device)
        old = tokens < known
        parents = embeddings[torch.from_numpy(table[first, level - 1]).long().to(device)]
        steps = torch.zeros(len(kinds), embeddings.shape[1]).to(embeddings)
        counts = torch.zeros(len(kinds)).to(embeddings)
        if level < tokenizer.num_codebooks:
            steps.index_add_(0, place[old], (embeddings[tokens] - parents)[old])
            counts.index_add_(0, place[old], torch.ones(int(old.sum())).to(embeddings))
        new = parents + steps[place] / counts[place].clamp(min=1).unsqueeze(-1)
        _write(embeddings, tokens[~old], new[~old])


def _write(embeddings: torch.Tensor, tokens: torch.Tensor, values: torch.Tensor) -> None:
    """Write rows of a table that several models may share. Those that lack the rows need not notice: inference
    copies of their weights, which ask the version counter, stay valid."""
    embeddings.data[tokens] = values


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
