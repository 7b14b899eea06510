"""An inference copy of a T5's weights: concatenated, with the gains of norms folded in, in the dtype of the products.

Decoding one user with ten beams takes about a hundred products of small matrices, so that the operators between them
cost as much as the products. This copy saves operators: queries, keys and values are one product, and so are the
cross-attention keys and values of all layers; no weight is cast or scaled while decoding; attention is one operator.
The results are T5's: residuals, norms and softmax in float32, products in ``dtype``.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import T5ForConditionalGeneration

from tiger.retriever.config import (
    RetrieverConfig,
    history_places,
    is_causal,
    item_vocabulary,
    pad_token,
    reads_users,
    sums_items,
    uses_child_softmax,
)
from tiger.retriever.hashed_prefixes import HashedPrefixes
from tiger.retriever.layer_weights import LayerList, adapter_base, embedding_weight, linear_weight, norm_weight
from tiger.retriever.model import TokenLayout
from tiger.retriever.recency import cross_attention_bias, recency_table
from tiger.utils import devices
from tiger.utils.growing import Growing


@dataclass
class EncodedHistories:
    """Encoded histories, as the decoder's cross-attention reads them.

    Args:
        keys, values: [decoder layers, B, heads, S, d_kv].
        bias: float [B, 1 or heads, 1, S], -inf at padding; None if nothing is padded and no bias added.
    """

    keys: torch.Tensor
    values: torch.Tensor
    bias: torch.Tensor | None


@dataclass
class _Block:
    """A layer's weights, each [out, in], gains of the norms before them multiplied in."""

    self_in: torch.Tensor  # queries, keys, values
    self_out: torch.Tensor
    inner: torch.Tensor  # with a gated activation, gate and value
    outer: torch.Tensor


@dataclass
class _DecoderBlock(_Block):
    """With those of the cross-attention, except its keys and values."""

    cross_in: torch.Tensor
    cross_out: torch.Tensor


# Elements of the children's vectors that are gathered at once. CPU: 16 MiB in float32, about the size of its cache.
# Accelerator: 512 MiB in bfloat16, so that launches are few; a small share of its memory.
_HOST_VECTORS, _DEVICE_VECTORS = 1 << 22, 1 << 28

_kept: weakref.WeakKeyDictionary[T5ForConditionalGeneration, dict] = weakref.WeakKeyDictionary()
_optimizer_steps = 0


def _count_step(*unused) -> None:
    global _optimizer_steps
    _optimizer_steps += 1


register_optimizer_step_post_hook(_count_step)


def vectors_at_once(device: torch.device) -> int:
    """Elements of the children's vectors that a step gathers at once."""
    return _HOST_VECTORS if devices.is_host(device) else _DEVICE_VECTORS


def packed(model: T5ForConditionalGeneration, dtype: torch.dtype) -> PackedT5:
    """The inference copy of a model, made once and again after its weights change.

    A change in place raises a weight's version counter. Fused optimizers don't raise it, so steps of optimizers, of
    any model in this process, count as a change as well. On a CPU, the first element of each weight is compared, too;
    an accelerator would have to be waited for. So these changes go unnoticed: writing through ``.data``, single
    elements on a CPU, any elsewhere. Where an adapter wraps a layer, the copy is made anew each time: turning one off
    changes no weight.
    """
    model = adapter_base(model)
    kept = _kept.setdefault(model, {})
    layers = kept.get("layers")
    if layers is None or not layers.is_current:
        kept.clear()
        layers = kept["layers"] = LayerList(model)
    if layers.wrapped is not None:
        return PackedT5(model, dtype)
    state = _weights_now(model, kept)
    if dtype not in kept or kept[dtype][0] != state:
        kept[dtype] = (state, PackedT5(model, dtype))
    return kept[dtype][1]


def _weights_now(model: T5ForConditionalGeneration, kept: dict) -> tuple:
    """Values in which a change of the weights shows, see :func:`packed`."""
    if "weights" not in kept:
        kept["weights"] = list(model.parameters())  # slow to list
    weights = kept["weights"]
    first = []
    if devices.is_host(model.device):
        first = torch.stack([weight.detach().view(-1)[0] for weight in weights]).tolist()
    versions = sum(0 if weight.is_inference() else weight._version for weight in weights)
    return model.device, versions, _optimizer_steps, first


def follow(model: T5ForConditionalGeneration, larger: T5ForConditionalGeneration) -> None:
    """Make the inference copies of a model those of one that has more tokens and shares all other weights with it."""
    copies = {dtype: one for dtype, one in _kept.get(model, {}).items() if isinstance(dtype, torch.dtype)}
    for dtype, (_, before) in copies.items():
        if packed(model, dtype) is before:  # still that of the weights that there are
            kept = _kept.setdefault(larger, {"layers": LayerList(larger)})
            kept[dtype] = (_weights_now(larger, kept), before.extended(larger))


class PackedT5:
    """An inference copy of a T5's weights; it does not follow later changes of the model.

    Args:
        model: on any device.
        dtype: of the products.
    """

    def __init__(self, model: T5ForConditionalGeneration, dtype: torch.dtype = torch.float32):
        config = self.config = model.config
        self.pad_token = pad_token(model)
        encoder: Any = model.encoder  # transformers leaves the types of its parts open
        decoder: Any = model.decoder
        self.dtype, self.heads, self.width = dtype, config.num_heads, config.d_kv
        self.is_causal, self.child_softmax = is_causal(model), uses_child_softmax(model)
        self.sums_items = sums_items(model)
        self._has_user, table = reads_users(model), recency_table(model)
        self._recency = None if table is None else table.detach().float()
        self.hashed = HashedPrefixes.of(model)
        self._size = config.d_model
        self._least = torch.tensor((config.layer_norm_epsilon * config.d_model) ** 0.5, device=model.device)
        self._activation = encoder.block[0].layer[-1].DenseReluDense.act
        self._gated = config.is_gated_act
        self._tables = [stack.block[0].layer[0].SelfAttention for stack in (encoder, decoder)]
        self._biases: dict[tuple, torch.Tensor] = {}
        with torch.no_grad():
            first: Any = next(model.parameters())
            self._like = torch.zeros(
                (), dtype=first.dtype if first.is_floating_point() else dtype, device=model.device
            )
            self.embeddings = embedding_weight(model.shared, config.vocab_size, self._like).detach()
            self._encoder = [_Block(*self._packed(block.layer)) for block in encoder.block]
            self._decoder = [_DecoderBlock(*self._packed(block.layer)) for block in decoder.block]
            cross = [block.layer[1].EncDecAttention for block in decoder.block]
            weights = self._together(*(part.k for part in cross), *(part.v for part in cross))
            self._cross = (weights * self._gain(encoder.final_layer_norm)).to(dtype)
            scale = config.d_model**-0.5 if config.scale_decoder_outputs else 1.0
            self._output_gain = self._gain(decoder.final_layer_norm) * scale
            # In training, a softmax over children reads the embeddings themselves.
            weights = self.embeddings if self.child_softmax else self._together(model.lm_head)
            weights = weights[: item_vocabulary(model) if self.hashed is None else None].float()
            self._output = Growing((weights * self._output_gain).to(dtype))

    @property
    def learned_tokens(self) -> int:
        """See :class:`tiger.retriever.config.RetrieverConfig`."""
        return RetrieverConfig.from_t5(self.config).learned_tokens

    @property
    def output(self) -> torch.Tensor:
        """[tokens, d_model]: what the decoder's states are multiplied by; hashed rows, too, where there are any."""
        return self._output.values

    @torch.no_grad()
    def extended(self, model: T5ForConditionalGeneration) -> PackedT5:
        """The copy of a model that has more tokens at the end of its vocabulary and is the same otherwise."""
        larger = copy.copy(self)
        larger.config, larger.embeddings = model.config, model.shared.weight.detach()
        new = model.lm_head.weight[len(self.output) :].float()
        larger._output = self._output.append((new * self._output_gain).to(self.dtype))
        return larger

    def _packed(self, layers: Any) -> list[torch.Tensor]:
        """The weights of a layer in the order of the fields of :class:`_Block`."""
        attention, dense = layers[0].SelfAttention, layers[-1].DenseReluDense
        inner_size = self.heads * self.width
        inner = self._together(dense.wi_0, dense.wi_1) if self._gated else self._together(dense.wi)
        together = self._together(attention.q, attention.k, attention.v)
        block = [together * self._gain(layers[0].layer_norm), self._together(attention.o, size=inner_size)]
        block += [inner * self._gain(layers[-1].layer_norm), self._together(dense.wo, size=self.config.d_ff)]
        if len(layers) == 3:
            cross = layers[1].EncDecAttention
            query = self._together(cross.q)
            block += [query * self._gain(layers[1].layer_norm), self._together(cross.o, size=inner_size)]
        return [weight.detach().to(self.dtype) for weight in block]

    def _together(self, *layers: Any, size: int | None = None) -> torch.Tensor:
        """Matrices of layers, one below the other, in float32; ``size``: of their inputs, if not a state's."""
        size = self._size if size is None else size
        weights = [linear_weight(layer, size, self._like).float() for layer in layers]
        return weights[0] if len(weights) == 1 else torch.cat(weights)

    def _gain(self, norm: Any) -> torch.Tensor:
        return norm_weight(norm).float() * self._size**0.5

    def encode(self, tokens: torch.Tensor, item_length: int) -> EncodedHistories:
        """Encode histories and project them to each decoder layer's cross-attention keys and values.

        Args:
            tokens: int64 [B, S], padded on the right; an empty history is all padding.
            item_length: tokens per item in the history, for the causal mask.
        """
        if self.hashed is not None:
            tokens, item_length = self.hashed.items(tokens), 1
        padding = tokens.view(len(tokens), tokens.shape[1], -1)[..., 0].eq(self.pad_token)
        padding[:, 0] = False  # an empty history keeps one position, so that softmax has something to normalize
        bias, cross_bias, layout = self._encoder_bias(tokens.shape[1], item_length), None, None
        # Only on a CPU is it checked whether anything is padded: waiting for a GPU's answer costs more than the mask.
        on_host = devices.is_host(tokens.device)
        if not on_host or padding.any():
            cross_bias = torch.zeros(padding.shape, device=tokens.device).masked_fill_(padding, float("-inf"))
            cross_bias = cross_bias[:, None, None, :]
            bias = bias + cross_bias
            # On a CPU, padding is left out of every product except attention.
            layout = TokenLayout(padding) if on_host else None
        if self._recency is not None:
            visible = ((~padding).sum(-1, keepdim=True) - int(self._has_user)) // item_length
            cross_bias = cross_attention_bias(visible, tokens.shape[1], item_length, self._has_user, self._recency)
        tokens = tokens if layout is None else layout.pack(tokens)
        if self.hashed is None:
            states = F.embedding(tokens, self.embeddings).float()
        else:
            states = self.hashed.item_vectors(self.embeddings, tokens).float()
        for block in self._encoder:
            together = F.linear(self._norm(states), block.self_in)
            together = together if layout is None else layout.unpack(together)
            q, k, v = together.unflatten(-1, (3, self.heads, self.width)).permute(2, 0, 3, 1, 4)
            seen = attend(q, k, v, bias).transpose(1, 2).flatten(2)
            states = states + F.linear(seen if layout is None else layout.pack(seen), block.self_out)
            states = self._feed_forward(states, block)
        together = F.linear(self._norm(states), self._cross)
        together = together if layout is None else layout.unpack(together)
        layers = len(self._decoder)
        keys, values = (
            together.unflatten(-1, (2, layers, self.heads, self.width)).permute(2, 3, 0, 4, 1, 5).contiguous()
        )
        return EncodedHistories(keys, values, cross_bias)

    def _encoder_bias(self, length: int, item_length: int) -> torch.Tensor:
        """[1, heads, length, length]"""
        key = ("encoder", length, item_length)
        if key not in self._biases:
            with torch.no_grad():
                bias = self._tables[0].compute_bias(length, length).detach()
            if self.is_causal:
                items = history_places(length, item_length, self._has_user, bias.device)
                bias = bias.masked_fill(items > items[:, None], float("-inf"))
            self._biases[key] = bias
        return self._biases[key]

    def _decoder_bias(self, written: int) -> torch.Tensor:
        """Position bias of the last position against all positions so far: [written + 1, 1, heads]."""
        key = ("decoder", written)
        if key not in self._biases:
            with torch.no_grad():
                bias = self._tables[1].compute_bias(1, written + 1, past_seen_tokens=written)
            self._biases[key] = bias.detach()[0, :, 0].T.contiguous().unsqueeze(1)
        return self._biases[key]

    def _norm(self, states: torch.Tensor) -> torch.Tensor:
        """T5's norm without its gain and the square root of the size; both are folded into the next weights."""
        lengths = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        return (states / lengths.hypot(self._least)).to(self.dtype)

    def _feed_forward(self, states: torch.Tensor, block: _Block) -> torch.Tensor:
        inner = F.linear(self._norm(states), block.inner)
        if self._gated:
            gate, value = inner.chunk(2, dim=-1)
            return states + F.linear(self._activation(gate) * value, block.outer)
        return states + F.linear(self._activation(inner), block.outer)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """[B, heads, N, d] x [B, heads, S, d] -> [B, heads, N, d]. T5 does not scale the scores."""
    if len(q) < 8 or not devices.is_host(q.device):
        bias = None if bias is None else bias.to(q.dtype).expand(-1, -1, q.shape[2], -1)
        return F.scaled_dot_product_attention(q, k, v, bias, scale=1.0)
    # On a CPU, the fused operator takes twice as long as its parts for many users, and half as long for one.
    scores = (q @ k.transpose(-1, -2)).float()
    return (scores if bias is None else scores.add_(bias)).softmax(-1).to(v.dtype) @ v
