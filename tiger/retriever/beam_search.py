"""Beam search under a prefix trie: every answer is a row of the token table that the trie was built from.

The beams of a history share its encoding, the children of all beams are gathered at once, and a step never waits for
the device (no host synchronization).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from transformers import GenerationConfig, T5ForConditionalGeneration
from transformers.generation import GenerateBeamEncoderDecoderOutput

from tiger._moved import old_arguments
from tiger.retriever.allowed_items import AllowedItems
from tiger.retriever.config import history_item_length, pad_token
from tiger.retriever.inference_decoder import PackedDecoder
from tiger.retriever.inference_model import packed
from tiger.retriever.prior import MemoryPrior
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils import devices

# Users that a CPU decodes together, few enough for the tensors of a step to stay in the cache. Not tuned.
CPU_USERS = 16


@dataclass
class Beams:
    """Results of a beam search, best first.

    Args:
        rows: int64 [B, k], rows of the trie's table; -1 where there are fewer results.
        scores: float32 [B, k], log-probabilities under the model (``-inf`` for row -1).
    """

    rows: torch.Tensor
    scores: torch.Tensor


@old_arguments(among="allowed_items")
@torch.inference_mode()
def beam_search(
    model: T5ForConditionalGeneration,
    trie: SemanticIdTrie,
    histories: torch.Tensor,
    num_beams: int = 50,
    k: int | None = None,
    excluded: torch.Tensor | None = None,
    temperature: float | None = None,
    generator: torch.Generator | None = None,
    scored_levels: int | None = None,
    allowed_items: torch.Tensor | AllowedItems | None = None,
    sampled_levels: int | None = None,
    prior: MemoryPrior | None = None,
) -> Beams:
    """Find the most probable rows after each history; exact if ``num_beams`` is the number of rows.

    Args:
        model: a T5 over the trie's tokens. Matrix products are of autocast's dtype, or the model's own.
        trie: on the model's device.
        histories: int64 [B, S], history tokens, padded on the right; an empty history is all padding.
        num_beams: candidates kept per step; may be more than the trie has.
        k: results per history (default ``num_beams``).
        excluded: int64 [B, X], rows never returned, padded with -1. Branches with excluded rows only are not entered,
            so they take no beam.
        temperature: None: the most probable rows. A number, at least 0.001: a sample without replacement from the
            model's distribution over allowed tokens at this temperature (stochastic beam search, Kool et al., arXiv
            1903.06059), in the order in which it was drawn; ``scores`` are log-probabilities of that distribution.
        generator: random number generator for sampling.
        scored_levels: number of levels that the model scores (default all). On later levels, all children of a beam
            are equally probable: the collision tokens of items that were not in training carry no information.
        allowed_items: bool [n], rows that may be returned, or the same prepared once for many searches. Their
            probabilities stay those among all rows. No beam is spent on others: there are ``k`` results wherever
            ``k`` rows are allowed and not excluded.
        sampled_levels: number of levels at which ``temperature`` counts (default all). On later ones there is no
            chance: candidates are ordered by the model's log-probabilities, added to what their prefix was drawn with.
        prior: a memory's, of these histories; ``scores`` are its mixture with the model's log-probabilities. With
            ``temperature``, the next token is drawn by the softmax of what each adds to its prefix's score.

    Raises:
        ValueError: ``num_beams``, ``k`` or ``temperature`` is out of range.
    """
    _check_ranges(num_beams, k, temperature)
    device = histories.device
    weights = packed(model, devices.autocast_dtype(device) or model.dtype)
    length = history_item_length(model, trie.depth)
    found = _no_beams(histories, num_beams if k is None else k)
    if isinstance(allowed_items, torch.Tensor):
        allowed_items = AllowedItems.from_mask(trie, allowed_items)
    sampling = temperature, generator, sampled_levels
    with devices.without_autocast(device):
        for users, some in _groups(histories, pad_token(model)):
            decoder = PackedDecoder(weights, weights.encode(some, length))
            theirs = None if excluded is None else excluded[users]
            allowed = None if allowed_items is None else allowed_items.select(users)
            rows, scores = _search(
                decoder, trie, some, num_beams, theirs, sampling, scored_levels, allowed, prior and prior.select(users)
            )
            width = min(found.rows.shape[1], rows.shape[1])
            found.rows[users, :width], found.scores[users, :width] = rows[:, :width], scores[:, :width]
    return found


def _no_beams(histories: torch.Tensor, k: int) -> Beams:
    shape = (len(histories), k)
    return Beams(histories.new_full(shape, -1), torch.full(shape, float("-inf"), device=histories.device))


def _check_ranges(num_beams: int, k: int | None, temperature: float | None) -> None:
    if num_beams < 1 or (k is not None and k < 1):
        raise ValueError(f"num_beams and k must be at least 1, got {num_beams} and {k}")
    if temperature is not None and not temperature >= 1e-3:  # below, quotients leave float32
        raise ValueError(f"temperature must be at least 0.001, got {temperature}")


def trie_generate(
    model: T5ForConditionalGeneration,
    input_ids: torch.Tensor,
    *,
    generation_config: GenerationConfig,
    inputs_tensor: torch.Tensor,
    trie: SemanticIdTrie,
    excluded: torch.Tensor | None = None,
    allowed_items: torch.Tensor | AllowedItems | None = None,
    **unused,
) -> torch.Tensor | GenerateBeamEncoderDecoderOutput:
    """:func:`beam_search` as the ``custom_generate`` of transformers' ``generate``.

    Reads ``num_beams``, ``num_return_sequences``, ``do_sample`` and ``temperature`` of ``generate``; lengths, logits
    processors and stopping criteria have no effect, because the trie alone says what may follow. ``generate`` has run
    T5's own encoder by then; its result is not used.

    Args:
        trie, excluded, allowed_items: arguments of :func:`beam_search`, given to ``generate`` by these names.
        model, input_ids, generation_config, inputs_tensor, unused: given by ``generate``; ``inputs_tensor`` are the
            histories.

    Returns:
        The start token and the item's tokens, int64 [B * num_return_sequences, 1 + depth], best first; all padding
        where there are fewer results. With ``return_dict_in_generate``, an object with these ``sequences`` and their
        ``sequences_scores``, log-probabilities.

    Example::

        output = model.generate(histories, custom_generate=trie_generate, trie=trie, num_beams=50)
        rows = tokenizer.decode(output[:, 1:].numpy())
    """
    beams = beam_search(
        model,
        trie,
        inputs_tensor,
        num_beams=max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1),
        k=generation_config.num_return_sequences or 1,
        excluded=excluded,
        temperature=(generation_config.temperature or 1.0) if generation_config.do_sample else None,
        allowed_items=allowed_items,
    )
    rows, scores = beams.rows.flatten(), beams.scores.flatten()
    nodes = trie.paths(rows.clamp(min=0))
    tokens = torch.stack([level[nodes[:, at]] for at, level in enumerate(trie.tokens)], dim=1).long()
    tokens = tokens.masked_fill(rows.unsqueeze(1) < 0, pad_token(model))
    sequences = torch.nn.functional.pad(tokens, (1, 0), value=model.config.decoder_start_token_id)
    if not generation_config.return_dict_in_generate:
        return sequences
    return GenerateBeamEncoderDecoderOutput(sequences=cast(torch.LongTensor, sequences), sequences_scores=scores)


def _groups(histories: torch.Tensor, pad: int) -> Iterator[tuple[torch.Tensor | slice, torch.Tensor]]:
    """Users decoded together, and their histories: on a CPU, a few of similar length at a time (see ``CPU_USERS``)."""
    if len(histories) <= CPU_USERS or not devices.is_host(histories.device):
        yield slice(None), histories
        return
    lengths = histories.ne(pad).sum(-1)
    for users in lengths.argsort(descending=True, stable=True).split(CPU_USERS):
        yield users, histories[users, : max(1, int(lengths[users[0]]))]


def _search(decoder, trie, histories, num_beams, excluded, sampling, scored_levels, members, prior):
    temperature, generator, sampled_levels = sampling
    batch, device = len(histories), histories.device
    tokens = histories.new_full((batch, 1), decoder.start_token)
    scores = torch.zeros(batch, 1, device=device)
    keys = scores  # what the search ranks by: the scores, or the scores with noise
    if temperature is not None and sampled_levels is not None and sampled_levels < trie.depth:
        keys = _gumbel(scores, generator)  # later levels read the noise itself, not its order alone
    mixture = None if prior is None else _Mixture(prior, scores)
    nodes = None
    exclusion = None
    if excluded is not None:
        if members is not None:  # rows that may not be returned anyway need no exclusion
            excluded = excluded.masked_fill(~members.of_rows(excluded.clamp(min=0)), -1)
        exclusion = _Exclusion(trie, excluded, members or trie)
    for level in range(trie.depth):
        children, choices, allowed = trie.follow(level, nodes)
        shape = (batch, scores.shape[1], trie.widths[level])
        children, allowed = children.expand(shape), allowed.expand(shape)
        scored = scored_levels is None or level < scored_levels
        if scored:
            log_probs = decoder.step(tokens, choices, allowed, trie)
        if members is not None:
            allowed = allowed & (members.leaf_counts(level, children) > 0)
        if not scored:
            log_probs = scores.new_zeros(shape).masked_fill(~allowed, float("-inf")).log_softmax(-1)
        if mixture is not None:
            log_probs = mixture.added(level, children, log_probs, allowed)
        if exclusion is not None:
            allowed = allowed & ~exclusion.exhausted(level, nodes, children)
        sampled = temperature is not None and (sampled_levels is None or level < sampled_levels)
        if sampled:
            log_probs = (log_probs / temperature).masked_fill(~allowed, float("-inf")).log_softmax(-1)
        # A beam without allowed children normalizes over -inf only: the NaNs are masked here.
        candidates = (scores.unsqueeze(-1) + log_probs).masked_fill(~allowed, float("-inf"))
        if sampled:
            ranked = _perturb(candidates, keys, generator)
        elif temperature is not None:
            ranked = (keys.unsqueeze(-1) + log_probs).masked_fill(candidates.isneginf(), float("-inf"))
        else:
            ranked = candidates
        keys, picked = ranked.flatten(1).topk(min(num_beams, shape[1] * shape[2]))
        scores = candidates.flatten(1).gather(1, picked)
        nodes = children.flatten(1).gather(1, picked)
        tokens = choices.expand(shape).flatten(1).gather(1, picked)
        if mixture is not None:
            mixture.keep(picked)
        if level < trie.depth - 1:
            decoder.keep(picked // shape[2])
    return trie.rows[nodes].long().masked_fill(scores == float("-inf"), -1), scores


class _Mixture:
    """Scores that tokens add to their prefixes, where a memory's prior is mixed in.

    Args:
        prior: of these histories.
        scores: float32 [B, 1], zeros.
    """

    def __init__(self, prior: MemoryPrior, scores: torch.Tensor):
        self._prior = prior
        # Of the beams: log-probabilities under the T5, and mixed.
        self._known, self._mixed = scores, scores

    def added(
        self, level: int, children: torch.Tensor, log_probs: torch.Tensor, allowed: torch.Tensor
    ) -> torch.Tensor:
        """float32 [B, N, W], from the T5's log-probabilities of the next token."""
        self._next = (self._known.unsqueeze(-1) + log_probs).masked_fill(~allowed, float("-inf"))
        self._total = self._prior.mixed(level, children, self._next)
        return self._total - self._mixed.unsqueeze(-1)

    def keep(self, picked: torch.Tensor) -> None:
        """Go on with these candidates, int64 [B, new beams], places in [N * W]."""
        self._known = self._next.flatten(1).gather(1, picked)
        self._mixed = self._total.flatten(1).gather(1, picked)


def _perturb(candidates: torch.Tensor, parents: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Gumbel noise on the candidates [B, N, W] so that the best of each beam keeps its parent's noise [B, N].

    Equations of Kool et al. (arXiv 1903.06059), section 4.1 and appendix B.3, in their stable form.
    """
    noisy = candidates + _gumbel(candidates, generator)
    best = noisy.amax(-1, keepdim=True)
    parents = parents.unsqueeze(-1)
    shifted = parents - noisy + torch.log1p(-torch.exp(noisy - best))
    conditioned = parents - shifted.clamp(min=0) - torch.log1p(torch.exp(-shifted.abs()))
    return torch.where(candidates.isneginf() | conditioned.isnan(), float("-inf"), conditioned)


def _gumbel(like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Gumbel noise of a tensor's shape."""
    uniform = torch.rand(like.shape, device=like.device, generator=generator).clamp(1e-20, 1 - 1e-7)
    return -(-uniform.log()).log()


class _Exclusion:
    """Finds nodes with excluded rows only.

    Args:
        excluded: int64 [B, X], padded with -1.
        counted: gives the number of rows under a node, all or the allowed ones.
    """

    def __init__(self, trie: SemanticIdTrie, excluded: torch.Tensor, counted: SemanticIdTrie | AllowedItems):
        self._trie, self._counted = trie, counted
        # Sorted leaves: those under one node are neighbors.
        none = len(trie)
        leaves = trie.leaves[excluded.clamp(min=0)].long().masked_fill(excluded < 0, none).sort(-1).values
        repeated = torch.zeros_like(leaves, dtype=torch.bool)
        repeated[:, 1:] = leaves[:, 1:] == leaves[:, :-1]
        leaves = leaves.masked_fill(repeated, none).sort(-1).values
        self._valid = leaves < none
        self._paths = trie.paths(trie.rows[leaves.clamp(max=none - 1)].long())

    def exhausted(self, level: int, nodes: torch.Tensor | None, children: torch.Tensor) -> torch.Tensor:
        """bool [B, N, W]: the children of the beams ``nodes`` [B, N] under which every leaf is excluded."""
        on_level = self._paths[..., level].contiguous()
        ordered = on_level.masked_fill(~self._valid, len(self._trie))
        together = torch.searchsorted(ordered, ordered, right=True) - torch.searchsorted(ordered, ordered)
        dead = self._valid & (together == self._counted.leaf_counts(level, on_level))
        dead = dead.unsqueeze(1)
        if nodes is not None:
            dead = dead & (nodes.unsqueeze(-1) == self._paths[..., level - 1].unsqueeze(1))
        place = on_level.unsqueeze(1) - children[..., :1]
        place = torch.where(dead, place, 0)
        marks = torch.zeros(children.shape, dtype=torch.int32, device=children.device)
        return marks.scatter_add_(-1, place, dead.int().expand(place.shape)) > 0
