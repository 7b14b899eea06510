"""The retriever's T5: training losses with T5's weights, computed once per history.

Modules and weights are those of transformers' ``T5ForConditionalGeneration``; only the order of work differs. A
history is encoded once, and projected once to cross-attention keys and values, for all its targets: each target is
more query positions on the same keys. Two settings of :class:`tiger.retriever.config.RetrieverConfig` change what is
computed. With ``history_attention="causal"`` an item attends to itself and to earlier items, so one pass over a user's
sequence encodes every prefix of it. With ``output_softmax="children"`` a token's probability is normalized over the
tokens that may follow the same prefix, so the vocabulary can hold all prefixes of a catalog.

Under autocast in bfloat16, only matrix products are bfloat16; residuals, norms and softmax stay float32.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

from tiger._moved import old_arguments, old_names
from tiger.retriever.child_softmax import ChildTargets, child_loss
from tiger.retriever.config import (
    TigerT5Config,
    history_places,
    is_causal,
    item_vocabulary,
    nested_config,
    pad_token,
    reads_users,
    retriever_config,
    sums_items,
    uses_child_softmax,
)
from tiger.retriever.generation import ItemGeneration
from tiger.retriever.hashed_prefixes import HashedPrefixes, position_item_length
from tiger.retriever.layer_weights import refuse_wrapped_layers
from tiger.retriever.plain_t5 import export_t5, over_modules_of
from tiger.retriever.recency import Recency, cross_attention_bias, recency_table
from tiger.retriever.user_tokens import forget_some_users
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils import devices
from tiger.utils.auto_classes import register
from tiger.utils.disk import disk_errors


class TigerT5(ItemGeneration, T5ForConditionalGeneration):
    """A T5 that proposes next items: T5's weights, the retriever's settings, and a ``forward`` with many targets.

    Made from :func:`tiger.retriever.config.t5_config`, or read by ``from_pretrained``; after ``import tiger``,
    ``AutoModelForSeq2SeqLM.from_pretrained`` gives one, too. ``generate`` with ``custom_generate=trie_generate``
    computes what the model was trained for; with ``prefix_allowed_tokens_fn`` it does so much more slowly, or refuses.
    Plain ``T5ForConditionalGeneration.from_pretrained`` opens the checkpoint with a warning: that class gives the same
    probabilities only if ``history_attention`` is ``full``, ``output_softmax`` is ``vocabulary``, and ``user_tokens``
    and ``recent_items`` are 0 (see :meth:`export_t5`); otherwise they differ (by up to .19 in log-probability after
    two training steps).

    Args:
        config: of a T5. Settings that an older version saved beside T5's own are moved into ``tiger_config``, in a
            copy.
    """

    config_class = TigerT5Config

    def __init__(self, config: T5Config):
        super().__init__(nested_config(config))
        if distances := retriever_config(self).recent_items:
            self.recency = Recency(distances, self.config.num_heads)

    @classmethod
    def from_t5(cls, model: T5ForConditionalGeneration) -> TigerT5:
        """A TigerT5 over the modules of a plain T5: training either one trains both.

        Args:
            model: left as it is. A module that is replaced later, as ``resize_token_embeddings`` does, is replaced in
                one of them only.
        """
        return over_modules_of(model, cls, nested_config(model.config))

    @old_arguments(visible="num_visible_items", siblings="children")
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        *,
        num_visible_items=None,
        labels=None,
        children=None,
        num_items_in_batch=None,
        encoder_outputs=None,
        **kwargs,
    ):
        """With ``num_visible_items``, ``{"loss": next_item_loss(...)}``; without, T5's own forward over tokens, with
        the retriever's attention."""
        if num_visible_items is None:
            return self.token_forward(input_ids, attention_mask, encoder_outputs, labels, **kwargs)
        return {"loss": next_item_loss(self, input_ids, num_visible_items, labels, num_items_in_batch, children)}

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, *args: Any, **options: Any
    ) -> None:
        """As of any model.

        Raises:
            DataError: layers are wrapped by adapters that are to be merged first.
            DiskError: the disk is full, read-only or denied.
        """
        if not getattr(self, "_hf_peft_config_loaded", False):  # then transformers saves adapters alone
            refuse_wrapped_layers(self, f"{save_directory} is not written")
        used, self.config.use_cache = self.config.use_cache, True  # training turns it off, generation wants it
        try:
            with disk_errors(save_directory, sum(weight.nbytes for weight in self.parameters())):
                super().save_pretrained(save_directory, is_main_process, *args, **options)
        finally:
            self.config.use_cache = used

    def export_t5(self, folder: str | os.PathLike) -> None:
        """Write a plain T5 that any program opens, where it computes the same: full attention and tokens of codes.

        Raises:
            DataError: a plain T5 would compute something else.
        """
        export_t5(self, folder)


@old_arguments(visible="num_visible_items", siblings="children")
def next_item_loss(
    model: T5ForConditionalGeneration,
    input_ids: torch.Tensor,
    num_visible_items: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    children: list[ChildTargets] | None = None,
) -> torch.Tensor:
    """Cross-entropy of target tokens given the histories that precede them.

    Args:
        model: a :class:`TigerT5` or a plain T5.
        input_ids: int64 [B, S], history tokens, padded on the right; a user token comes first where the model reads
            them.
        num_visible_items: int64 [B, T], how many items of its row's history each target may attend to.
        labels: int64 [B, T, L], target tokens; -100 where a row has fewer than T targets.
        num_items_in_batch: divisor of the summed loss (default: the number of label tokens in this call).
        children: one per level, for a model whose ``output_softmax`` is ``children``.

    Raises:
        ValueError: ``children`` is missing, given to a model with a softmax over the vocabulary, or made for another
            softmax than the model's.
    """
    if (children is not None) != uses_child_softmax(model):
        raise ValueError("a model whose output_softmax is 'children' needs children, and no other model takes them")
    if children is not None and (children[0].owners is not None) != sums_items(model):
        raise ValueError("children were made for another output_softmax: give child_targets the model's sums_items")
    states = target_states(model, input_ids, num_visible_items, labels)
    count = labels.ne(-100).sum() if num_items_in_batch is None else num_items_in_batch
    if children is None:
        logits = item_logits(model, states).flatten(0, -2)
        total = F.cross_entropy(logits.float(), labels.flatten(), ignore_index=-100, reduction="sum")
    else:
        total = child_loss(model, states, children, labels)
    return total / count


def item_logits(model: T5ForConditionalGeneration, states: torch.Tensor) -> torch.Tensor:
    """Logits of the tokens of items, [..., tokens]; users' tokens are inputs only."""
    if not reads_users(model):
        return model.lm_head(states)
    return F.linear(states, model.lm_head.weight[: item_vocabulary(model)])


def target_states(
    model: T5ForConditionalGeneration, input_ids: torch.Tensor, num_visible_items: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Decoder states of the teacher-forced targets, the input of the output layer: [B * T, L, d_model].

    Args:
        input_ids, num_visible_items, labels: see :func:`next_item_loss`.

    Raises:
        ValueError: several targets per row, although the encoder attends to the whole history.
    """
    rows, targets, length = labels.shape
    if targets > 1 and not is_causal(model):
        raise ValueError(
            "several targets can share a history only if history_attention is 'causal': with 'full' attention the "
            "encoding that the earlier ones read would contain their own answer. Train on one target per example."
        )
    item_length = position_item_length(model, length)
    encoded = encode(model, input_ids, item_length)
    places = encoded[0][0].shape[2]
    starts = labels.new_full((rows, targets, 1), model.config.decoder_start_token_id)
    tokens = torch.cat([starts, labels[..., :-1].clamp(min=0)], dim=-1)
    table, has_user = recency_table(model), reads_users(model)
    cross_bias = cross_attention_bias(num_visible_items, places, item_length, has_user, table)
    cross_bias = cross_bias.repeat_interleave(length, dim=2)

    states = _dropout(model, _target_vectors(model, tokens)).view(rows * targets, length, -1)
    decoder: Any = model.decoder  # transformers leaves the types of its parts open
    self_bias = decoder.block[0].layer[0].SelfAttention.compute_bias(length, length)
    future = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
    self_bias = self_bias.masked_fill(future, float("-inf"))
    for block, (keys, values) in zip(decoder.block, encoded):
        self_attention, cross_attention, feed_forward = block.layer
        states = _self_attention(model, self_attention, states, self_bias)
        normed = _norm(model, cross_attention.layer_norm, states)
        cross = cross_attention.EncDecAttention
        queries = _heads(model, cross.q(normed.view(rows, targets * length, -1)))
        seen = _attend(model, queries, keys, values, cross_bias)
        states = states + _dropout(model, cross.o(seen)).view(states.shape)
        states = _feed_forward(model, feed_forward, states)
    return _output(model, states)


def _target_vectors(model: T5ForConditionalGeneration, tokens: torch.Tensor) -> torch.Tensor:
    """Embeddings of targets' tokens with the start token before them, int64 [B, T, L]: [B, T, L, d_model]."""
    hashed = HashedPrefixes.of(model)
    if hashed is None:
        return model.shared(tokens)
    return torch.cat([model.shared(tokens[..., :1]), hashed.path_vectors(model.shared, tokens[..., 1:])], dim=-2)


def encode(
    model: T5ForConditionalGeneration, tokens: torch.Tensor, item_length: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Encode histories and project them to each decoder layer's cross-attention keys and values.

    Args:
        tokens: int64 [B, S], padded on the right.
        item_length: places per item in the history, for the causal mask.

    Returns:
        ``(keys, values)`` per decoder layer, each [B, heads, S, d_kv]; S counts places where prefixes are hashed.
    """
    stack: Any = model.encoder
    decoder: Any = model.decoder
    if model.training and reads_users(model):
        tokens = forget_some_users(model, tokens)
    hashed = HashedPrefixes.of(model)
    tokens = tokens if hashed is None else hashed.items(tokens)
    length = tokens.shape[1]
    padding = tokens.view(len(tokens), length, -1)[..., 0].eq(pad_token(model))
    padding[:, 0] = False  # an empty history keeps one position, so that softmax has something to normalize
    bias = stack.block[0].layer[0].SelfAttention.compute_bias(length, length)
    if is_causal(model):
        items = history_places(length, item_length, reads_users(model), tokens.device)
        bias = bias.masked_fill(items > items[:, None], float("-inf"))
    # On a CPU, padding is left out of every product except attention. On a GPU, finding out where padding is, or
    # whether there is any, would wait for the device (a host synchronization), which costs more than the mask.
    layout, by_layout = None, devices.is_host(tokens.device) and not torch.compiler.is_compiling()
    if not by_layout or padding.any():
        bias = bias.masked_fill(padding[:, None, None, :], float("-inf"))
        layout = TokenLayout(padding) if by_layout else None
    tokens = tokens if layout is None else layout.pack(tokens)
    vectors = model.shared(tokens) if hashed is None else hashed.item_vectors(model.shared, tokens)
    states = _dropout(model, vectors)
    for block in stack.block:
        attention, feed_forward = block.layer
        states = _feed_forward(model, feed_forward, _self_attention(model, attention, states, bias, layout))
    states = _dropout(model, _norm(model, stack.final_layer_norm, states))
    keys_values = []
    for block in decoder.block:
        cross = block.layer[1].EncDecAttention
        keys, values = cross.k(states), cross.v(states)
        if layout is not None:
            keys, values = layout.unpack(keys), layout.unpack(values)
        keys_values.append((_heads(model, keys), _heads(model, values)))
    return keys_values


class TokenLayout:
    """Converts between a padded batch [B, S, ...] and its tokens without padding [T, ...].

    Args:
        padding: bool [B, S], True where the batch is padded.
    """

    def __init__(self, padding: torch.Tensor):
        self._shape = padding.shape
        self._places = (~padding).flatten().nonzero().squeeze(1)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        return padded.flatten(0, 1)[self._places]

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """Back to [B, S, ...], with zeros at padding."""
        rows = packed.new_zeros(self._shape.numel(), *packed.shape[1:]).index_copy(0, self._places, packed)
        return rows.unflatten(0, self._shape)


def _self_attention(
    model, layer: Any, states: torch.Tensor, bias: torch.Tensor, layout: TokenLayout | None = None
) -> torch.Tensor:
    attention = layer.SelfAttention
    normed = _norm(model, layer.layer_norm, states)
    projected = (project(normed) for project in (attention.q, attention.k, attention.v))
    q, k, v = (_heads(model, part if layout is None else layout.unpack(part)) for part in projected)
    seen = _attend(model, q, k, v, bias)
    return states + _dropout(model, attention.o(seen if layout is None else layout.pack(seen)))


def _attend(model, q, k, v, bias: torch.Tensor | None) -> torch.Tensor:
    """[B, heads, N, d] x [B, heads, S, d] -> [B, N, heads * d]. T5 does not scale the scores."""
    if fuses_attention(model, q.device):
        rate = model.config.dropout_rate if model.training else 0.0
        mask = None if bias is None else bias.to(q.dtype)
        seen = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=rate, scale=1.0)
        return seen.transpose(1, 2).flatten(2)
    scores = (q @ k.transpose(-1, -2)).float()
    weights = (scores if bias is None else scores + bias).softmax(-1)
    return (_dropout(model, weights.to(v.dtype)) @ v).transpose(1, 2).flatten(2)


def fuses_attention(model, device: torch.device) -> bool:
    """Whether attention in training is one operator, which rounds its bias to the dtype of the products.

    On an accelerator, for full attention: each target has a history of its own there, so that scores are the largest
    tensors of a step. Causal histories are shared by their targets, and keep scores in float32.
    """
    return not devices.is_host(device) and not is_causal(model)


def _feed_forward(model, layer: Any, states: torch.Tensor) -> torch.Tensor:
    dense = layer.DenseReluDense
    normed = _norm(model, layer.layer_norm, states)
    if model.config.is_gated_act:
        inner = dense.act(dense.wi_0(normed)) * dense.wi_1(normed)
    else:
        inner = dense.act(dense.wi(normed))
    return states + _dropout(model, dense.wo(_dropout(model, inner)))


def _norm(model, layer: Any, states: torch.Tensor) -> torch.Tensor:
    normed = F.rms_norm(states, (states.shape[-1],), layer.weight, layer.variance_epsilon)
    # Cast once here; autocast would cast once for every product that reads it.
    return normed.to(devices.autocast_dtype(states.device) or normed.dtype)


def _heads(model, states: torch.Tensor) -> torch.Tensor:
    """[B, N, heads * d] -> [B, heads, N, d]"""
    return states.unflatten(-1, (model.config.num_heads, model.config.d_kv)).transpose(1, 2)


def _output(model, states: torch.Tensor) -> torch.Tensor:
    """Final norm, dropout and scale: the input of the output layer."""
    states = _dropout(model, _norm(model, model.decoder.final_layer_norm, states))
    if model.config.scale_decoder_outputs:
        states = states * model.model_dim**-0.5
    return states


# Random numbers in the CPU's pool of dropout masks: 32 MiB in float32. Not tuned; offsets need room (see `_dropout`).
_MASK_POOL_SIZE = 1 << 23
_mask_pools: dict[tuple[float, torch.dtype], torch.Tensor] = {}


def _dropout(model, states: torch.Tensor) -> torch.Tensor:
    """Dropout; on a CPU, masks are slices of a fixed random pool, at random offsets.

    Drawing a fresh mask on a CPU takes five times as long as the matrix product before it. The offset comes from
    torch's generator, so seeding and resuming work as for ``nn.Dropout``.
    """
    rate = model.config.dropout_rate
    if not model.training or rate == 0:
        return states
    count = states.numel()
    by_pool = devices.is_host(states.device) and not torch.compiler.is_compiling()
    if not by_pool or count > _MASK_POOL_SIZE // 4:  # offsets need room
        return F.dropout(states, rate)
    key = (rate, states.dtype)
    if key not in _mask_pools:
        drawn = torch.rand(_MASK_POOL_SIZE, generator=torch.Generator().manual_seed(0))
        _mask_pools[key] = ((drawn >= rate) / (1 - rate)).to(states.dtype)
    offset = int(torch.randint(_MASK_POOL_SIZE - count, ()))
    return states * _mask_pools[key][offset : offset + count].view(states.shape)


register(TigerT5Config, TigerT5, "AutoModelForSeq2SeqLM", SemanticIdTokenizer)

if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
