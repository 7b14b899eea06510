"""Beam search over a trie: every answer is a row of the table that the trie was built from.

Nothing here knows items. The beams of one history share its encoding; what may follow is gathered for all beams at
once; a step asks nothing back from the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import T5ForConditionalGeneration

from tiger.retriever.config import history_item_length
from tiger.retriever.inference_model import PackedDecoder, packed
from tiger.semantic_ids.trie import SemanticIdTrie

CPU_USERS = 16


@dataclass
class Beams:
    """The answers, best first.

    Args:
        rows: int64 [B, k], rows of the trie's table; -1 where there is no further answer.
        scores: float32 [B, k], log-probabilities under the model (``-inf`` for row -1).
    """

    rows: torch.Tensor
    scores: torch.Tensor


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
    among: torch.Tensor | None = None,
) -> Beams:
    """The most probable tuples after each history; exact when ``num_beams`` is the number of tuples.

    Args:
        model: a T5 over the trie's tokens. Products are of the type that autocast names, or float32.
        trie: on the model's device.
        histories: int64 [B, S], history tokens, padded on the right; an empty history is all padding.
        num_beams: candidates kept a step. More than the trie has is allowed.
        k: answers returned (default ``num_beams``).
        excluded: int64 [B, X], rows never returned, padded with -1. Branches that hold nothing else are not entered,
            so they cost no beam.
        temperature: None: the most probable. A number: a sample without replacement from the model's distribution over
            allowed tokens at this temperature (stochastic beam search, Kool et al., arXiv 1903.06059), in the order in
            which it was drawn; ``scores`` are then log-probabilities of that distribution.
        generator: random numbers for sampling.
        scored_levels: levels that the model knows something of (default all). On the others what is allowed after a
            beam is equally probable: the collision tokens of items that training never saw mean nothing.
        among: bool [n], the only rows that may be answered. Probabilities stay those among all.
    """
    if num_beams < 1 or (k is not None and k < 1):
        raise ValueError(f"num_beams and k must be at least 1, got {num_beams} and {k}")
    if temperature is not None and not temperature >= 1e-3:  # below, quotients leave float32
        raise ValueError(f"temperature must be at least 0.001, got {temperature}")
    device = histories.device.type
    autocast = torch.is_autocast_enabled(device)
    weights = packed(model, torch.get_autocast_dtype(device) if autocast else torch.float32)
    length = history_item_length(model, trie.depth)
    k = num_beams if k is None else k
    found = Beams(
        rows=histories.new_full((len(histories), k), -1),
        scores=torch.full((len(histories), k), float("-inf"), device=histories.device),
    )
    members = None if among is None else _Members(trie, among)
    with torch.autocast(device, enabled=False):
        for users, some in _groups(histories, model.config.pad_token_id):
            decoder = PackedDecoder(weights, weights.encode(some, length))
            theirs = None if excluded is None else excluded[users]
            rows, scores = _search(
                decoder, trie, some, num_beams, theirs, temperature, generator, scored_levels, members
            )
            width = min(k, rows.shape[1])
            found.rows[users, :width], found.scores[users, :width] = rows[:, :width], scores[:, :width]
    return found


def _groups(histories: torch.Tensor, pad_token: int) -> Iterator[tuple[torch.Tensor | slice, torch.Tensor]]:
    """Users who are searched for together, and their histories: on a CPU a few of about one length at a time, so that
    what a step holds stays in the cache."""
    if len(histories) <= CPU_USERS or histories.device.type != "cpu":
        yield slice(None), histories
        return
    lengths = histories.ne(pad_token).sum(-1)
    for users in lengths.argsort(descending=True, stable=True).split(CPU_USERS):
        yield users, histories[users, : max(1, int(lengths[users[0]]))]


def _search(decoder, trie, histories, num_beams, excluded, temperature, generator, scored_levels, members):
    batch, device = len(histories), histories.device
    tokens = histories.new_full((batch, 1), decoder.start_token)
    scores = torch.zeros(batch, 1, device=device)
    keys = scores  # what the search ranks by: the scores, or the scores with noise
    nodes = None
    exclusion = None
    if excluded is not None:
        if members is not None:  # what can't be answered need not be left out
            excluded = excluded.masked_fill(~members.among[excluded.clamp(min=0)], -1)
        exclusion = _Exclusion(trie, excluded, members or trie)
    for level in range(trie.depth):
        children, choices, allowed = trie.follow(level, nodes)
        shape = (batch, scores.shape[1], trie.widths[level])
        children, allowed = children.expand(shape), allowed.expand(shape)
        scored = scored_levels is None or level < scored_levels
        if scored:
            log_probs = decoder.step(tokens, choices, allowed)
        if members is not None:
            allowed = allowed & (members.leaf_counts(level, children) > 0)
        if not scored:
            log_probs = scores.new_zeros(shape).masked_fill(~allowed, float("-inf")).log_softmax(-1)
        if exclusion is not None:
            allowed = allowed & ~exclusion.exhausted(level, nodes, children)
        if temperature is not None:
            log_probs = (log_probs / temperature).masked_fill(~allowed, float("-inf")).log_softmax(-1)
        # A beam without a way on has only -inf to normalise: that gives NaN, and stays out.
        candidates = (scores.unsqueeze(-1) + log_probs).masked_fill(~allowed, float("-inf"))
        ranked = candidates if temperature is None else _perturb(candidates, keys, generator)
        keys, picked = ranked.flatten(1).topk(min(num_beams, shape[1] * shape[2]))
        scores = candidates.flatten(1).gather(1, picked)
        nodes = children.flatten(1).gather(1, picked)
        tokens = choices.expand(shape).flatten(1).gather(1, picked)
        if level < trie.depth - 1:
            decoder.keep(picked // shape[2])
    return trie.rows[nodes].long().masked_fill(scores == float("-inf"), -1), scores


def _perturb(candidates: torch.Tensor, parents: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Gumbel noise on the candidates [B, N, W] so that the best of each beam keeps its parent's noise [B, N].

    Equations of Kool et al. (arXiv 1903.06059), section 4.1 and appendix B.3, in their stable form.
    """
    uniform = torch.rand(candidates.shape, device=candidates.device, generator=generator).clamp(1e-20, 1 - 1e-7)
    noisy = candidates - (-uniform.log()).log()
    best = noisy.amax(-1, keepdim=True)
    parents = parents.unsqueeze(-1)
    shifted = parents - noisy + torch.log1p(-torch.exp(noisy - best))
    conditioned = parents - shifted.clamp(min=0) - torch.log1p(torch.exp(-shifted.abs()))
    return torch.where(candidates.isneginf() | conditioned.isnan(), float("-inf"), conditioned)


class _Members:
    """How many of some rows, bool [n], lie under a node."""

    def __init__(self, trie: SemanticIdTrie, among: torch.Tensor):
        self._trie, self.among = trie, among
        self._before = torch.nn.functional.pad(among[trie.rows.long()].cumsum(0), (1, 0))

    def leaf_counts(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        first, stop = self._trie.leaf_ranges(level, nodes)
        return self._before[stop] - self._before[first]


class _Exclusion:
    """Which nodes lead to excluded rows only; ``counted`` says how many rows there are under a node."""

    def __init__(self, trie: SemanticIdTrie, excluded: torch.Tensor, counted: SemanticIdTrie | _Members):
        self._trie, self._counted = trie, counted
        # Leaves in order: those under one node stand together, from the first of them to the last.
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
