"""Running T5's weights without running anything twice.

The modules and weights are those of transformers' ``T5ForConditionalGeneration``; the order of work is ours. A
history is encoded once, and its cross-attention keys and values are projected once, for all its targets in training
and all its beams in decoding: both are just more query positions. With ``history_attention="causal"`` (a field that
``t5_config`` puts into the T5 config) an item sees itself and the items before it, so one pass over a user's sequence
encodes each of its prefixes. With ``token_choice="siblings"`` a token's probability is that among the tokens that may
follow the same prefix, not among all: the vocabulary may then be as large as a catalogue's prefixes.

Everything follows autocast: in bfloat16, only the products are; residuals, norms and softmax stay float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from tiger.retriever.config import chooses_among_siblings, history_item_length, is_causal


class TigerT5(T5ForConditionalGeneration):
    """A T5 whose ``forward`` also takes many targets for one history.

    The checkpoint is a plain T5 checkpoint and says so: ``T5ForConditionalGeneration`` opens it.
    """

    def forward(self, input_ids=None, visible=None, labels=None, siblings=None, num_items_in_batch=None, **plain):
        """With ``visible``, the loss of :func:`next_item_loss`, as ``{"loss": ...}``; without, T5's own forward."""
        if visible is None:
            return super().forward(input_ids=input_ids, labels=labels, **plain)
        return {"loss": next_item_loss(self, input_ids, visible, labels, num_items_in_batch, siblings)}

    def save_pretrained(self, save_directory, **options):
        super().save_pretrained(save_directory, **options)
        if options.get("is_main_process", True):
            self.config.architectures = [T5ForConditionalGeneration.__name__]
            self.config.save_pretrained(save_directory)


def next_item_loss(
    model: T5ForConditionalGeneration,
    input_ids: torch.Tensor,
    visible: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    siblings: list[Siblings] | None = None,
) -> torch.Tensor:
    """Cross-entropy of target tokens given the histories that precede them.

    Args:
        input_ids: int64 [B, S], history tokens, padded on the right.
        visible: int64 [B, T], how many items of its row's history each target may see.
        labels: int64 [B, T, L], target tokens; -100 where a row has fewer than T targets.
        num_items_in_batch: what to divide the sum by (default: the number of label tokens in this call).
        siblings: one a level, for a model whose ``token_choice`` is ``siblings``.

    Raises:
        ValueError: siblings are wanted and not given, or the other way round.
    """
    if (siblings is not None) != chooses_among_siblings(model):
        raise ValueError("siblings are for a model whose config says token_choice='siblings', and it needs them")
    states = target_states(model, input_ids, visible, labels)
    count = labels.ne(-100).sum() if num_items_in_batch is None else num_items_in_batch
    if siblings is None:
        logits = model.lm_head(states).flatten(0, -2)
        total = F.cross_entropy(logits.float(), labels.flatten(), ignore_index=-100, reduction="sum")
    else:
        total = _sibling_loss(model, states, siblings)
    return total / count


@dataclass
class Siblings:
    """What the targets of a batch are chosen among on one level.

    Args:
        places: int64 [Q], which of the B * T targets have a choice at all.
        choices: int64 [Q or 1, W], the tokens that may follow the prefix of each; padded with the pad token.
        answers: int64 [Q], which of them is the right one.
    """

    places: torch.Tensor
    choices: torch.Tensor
    answers: torch.Tensor

    def to(self, *where, **how) -> Siblings:
        """As of a tensor."""
        return Siblings(*(part.to(*where, **how) for part in (self.places, self.choices, self.answers)))


def _sibling_loss(model: T5ForConditionalGeneration, states: torch.Tensor, siblings: list[Siblings]) -> torch.Tensor:
    """Sum of the cross-entropies of the states [B * T, L, d] of all levels among their siblings."""
    # One look-up for all levels: its gradient is as large as the vocabulary.
    vectors = model.shared(torch.cat([level.choices.flatten() for level in siblings]))
    vectors = vectors.split([level.choices.numel() for level in siblings])
    total = states.new_zeros((), dtype=torch.float32)
    for at, (level, candidates) in enumerate(zip(siblings, vectors)):
        if len(level.places):
            candidates = candidates.view(*level.choices.shape, -1)
            pad_token = model.config.pad_token_id
            logits = choice_logits(states[level.places, at], level.choices, candidates, pad_token)
            total = total + F.cross_entropy(logits, level.answers, reduction="sum")
    return total


def choice_logits(states: torch.Tensor, choices: torch.Tensor, vectors: torch.Tensor, pad_token: int) -> torch.Tensor:
    """What the output layer says of a few tokens: float32, the shape of ``choices``, -inf where they pad.

    Args:
        states: what the output layer reads, [..., d].
        choices: int64 [..., W], or [1, W] or [W] where all states have the same.
        vectors: of the choices in the output layer, [..., W, d].
    """
    if choices.numel() == choices.shape[-1]:
        logits = states @ vectors.view(-1, vectors.shape[-1]).to(states.dtype).T
    else:
        logits = (vectors.to(states.dtype) @ states.unsqueeze(-1)).squeeze(-1)
    return logits.float().masked_fill(choices.eq(pad_token), float("-inf"))


def target_states(
    model: T5ForConditionalGeneration, input_ids: torch.Tensor, visible: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """What the output layer reads of the teacher-forced targets, [B * T, L, d_model]; arguments as for
    :func:`next_item_loss`.

    Raises:
        ValueError: several targets a row, although the encoder looks at the whole history.
    """
    rows, targets, length = labels.shape
    if targets > 1 and not is_causal(model):
        raise ValueError(
            "several targets can share a history only if history_attention is 'causal': with 'full' attention "
            "the earlier ones would see their own answer. Train on one target an example."
        )
    item_length = history_item_length(model, length)
    encoded = encode(model, input_ids, item_length)
    starts = labels.new_full((rows, targets, 1), model.config.decoder_start_token_id)
    tokens = torch.cat([starts, labels[..., :-1].clamp(min=0)], dim=-1)
    items = torch.arange(input_ids.shape[1], device=input_ids.device) // item_length
    unseen = items >= visible.unsqueeze(-1)
    unseen[..., 0] = False  # a target with no history, and the padding between targets, look at the first token
    cross_bias = torch.zeros(unseen.shape, device=input_ids.device).masked_fill(unseen, float("-inf"))
    cross_bias = cross_bias.repeat_interleave(length, dim=1).unsqueeze(1)

    states = _dropout(model, model.shared(tokens)).view(rows * targets, length, -1)
    self_bias = model.decoder.block[0].layer[0].SelfAttention.compute_bias(length, length)
    future = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
    self_bias = self_bias.masked_fill(future, float("-inf"))
    for block, (keys, values) in zip(model.decoder.block, encoded):
        self_attention, cross_attention, feed_forward = block.layer
        states = _self_attention(model, self_attention, states, self_bias)
        normed = _norm(model, cross_attention.layer_norm, states)
        cross = cross_attention.EncDecAttention
        queries = _heads(model, cross.q(normed.view(rows, targets * length, -1)))
        seen = _attend(model, queries, keys, values, cross_bias)
        states = states + _dropout(model, cross.o(seen)).view(states.shape)
        states = _feed_forward(model, feed_forward, states)
    return _output(model, states)


def encode(
    model: T5ForConditionalGeneration, tokens: torch.Tensor, item_length: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Encode histories and project them for every decoder layer: keys and values [B, heads, S, d_kv] of each.

    Args:
        tokens: int64 [B, S], padded on the right.
        item_length: tokens an item in the history, for the causal mask.
    """
    stack, length = model.encoder, tokens.shape[1]
    hidden = tokens.eq(model.config.pad_token_id)
    hidden[:, 0] = False  # an empty history still has one position to look at
    bias = stack.block[0].layer[0].SelfAttention.compute_bias(length, length)
    if is_causal(model):
        items = torch.arange(length, device=tokens.device) // item_length
        bias = bias.masked_fill(items > items[:, None], float("-inf"))
    # On a CPU, what pads is left out of every product but that of attention. A GPU would have to be asked how much,
    # and whether anything pads at all: the question costs more than the mask.
    layout, by_layout = None, tokens.device.type == "cpu" and not torch.compiler.is_compiling()
    if not by_layout or hidden.any():
        bias = bias.masked_fill(hidden[:, None, None, :], float("-inf"))
        layout = TokenLayout(hidden) if by_layout else None
    states = _dropout(model, model.shared(tokens if layout is None else layout.pack(tokens)))
    for block in stack.block:
        attention, feed_forward = block.layer
        states = _feed_forward(model, feed_forward, _self_attention(model, attention, states, bias, layout))
    states = _dropout(model, _norm(model, stack.final_layer_norm, states))
    keys_values = []
    for block in model.decoder.block:
        cross = block.layer[1].EncDecAttention
        keys, values = cross.k(states), cross.v(states)
        if layout is not None:
            keys, values = layout.unpack(keys), layout.unpack(values)
        keys_values.append((_heads(model, keys), _heads(model, values)))
    return keys_values


class TokenLayout:
    """Between a padded batch [B, S, ...] and its tokens alone [T, ...]."""

    def __init__(self, hidden: torch.Tensor):
        self._shape = hidden.shape
        self._places = (~hidden).flatten().nonzero().squeeze(1)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        return padded.flatten(0, 1)[self._places]

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """Zero where the batch pads."""
        rows = packed.new_zeros(self._shape.numel(), *packed.shape[1:]).index_copy(0, self._places, packed)
        return rows.unflatten(0, self._shape)


def _self_attention(
    model, layer: nn.Module, states: torch.Tensor, bias: torch.Tensor, layout: TokenLayout | None = None
) -> torch.Tensor:
    attention = layer.SelfAttention
    normed = _norm(model, layer.layer_norm, states)
    projected = (project(normed) for project in (attention.q, attention.k, attention.v))
    q, k, v = (_heads(model, part if layout is None else layout.unpack(part)) for part in projected)
    seen = _attend(model, q, k, v, bias)
    return states + _dropout(model, attention.o(seen if layout is None else layout.pack(seen)))


def _attend(model, q, k, v, bias: torch.Tensor | None) -> torch.Tensor:
    """[B, heads, N, d] x [B, heads, S, d] -> [B, N, heads * d]. T5 does not scale the scores."""
    scores = (q @ k.transpose(-1, -2)).float()
    weights = (scores if bias is None else scores + bias).softmax(-1)
    return (_dropout(model, weights.to(v.dtype)) @ v).transpose(1, 2).flatten(2)


def _feed_forward(model, layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    dense = layer.DenseReluDense
    normed = _norm(model, layer.layer_norm, states)
    if model.config.is_gated_act:
        inner = dense.act(dense.wi_0(normed)) * dense.wi_1(normed)
    else:
        inner = dense.act(dense.wi(normed))
    return states + _dropout(model, dense.wo(_dropout(model, inner)))


def _norm(model, layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    normed = F.rms_norm(states, (states.shape[-1],), layer.weight, layer.variance_epsilon)
    device = states.device.type
    # One cast here, where autocast would make one a product that reads it.
    return normed.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else normed


def _heads(model, states: torch.Tensor) -> torch.Tensor:
    """[B, N, heads * d] -> [B, heads, N, d]"""
    return states.unflatten(-1, (model.config.num_heads, model.config.d_kv)).transpose(1, 2)


def _output(model, states: torch.Tensor) -> torch.Tensor:
    """What the output layer reads."""
    states = _dropout(model, _norm(model, model.decoder.final_layer_norm, states))
    if model.config.scale_decoder_outputs:
        states = states * model.model_dim**-0.5
    return states


_MASK_POOL_SIZE = 1 << 23
_mask_pools: dict[tuple[float, torch.dtype], torch.Tensor] = {}


def _dropout(model, states: torch.Tensor) -> torch.Tensor:
    """Dropout; on CPU the masks are slices, at random offsets, of a fixed pool of them.

    Drawing a fresh mask costs five times the matrix product that it follows (one number at a time from one generator).
    The offset comes from torch's generator, so seeding and resuming work as they do for ``nn.Dropout``.
    """
    rate = model.config.dropout_rate
    if not model.training or rate == 0:
        return states
    count = states.numel()
    by_pool = states.device.type == "cpu" and not torch.compiler.is_compiling()
    if not by_pool or count > _MASK_POOL_SIZE // 4:  # offsets need room
        return F.dropout(states, rate)
    key = (rate, states.dtype)
    if key not in _mask_pools:
        drawn = torch.rand(_MASK_POOL_SIZE, generator=torch.Generator().manual_seed(0))
        _mask_pools[key] = ((drawn >= rate) / (1 - rate)).to(states.dtype)
    offset = int(torch.randint(_MASK_POOL_SIZE - count, ()))
    return states * _mask_pools[key][offset : offset + count].view(states.shape)
