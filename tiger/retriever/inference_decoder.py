"""The decoder of an inference copy: what a beam search does with each token."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tiger.retriever.child_softmax import choice_logits, first_logits
from tiger.retriever.hashed_prefixes import row_sums
from tiger.retriever.inference_model import EncodedHistories, PackedT5, attend, vectors_at_once
from tiger.semantic_ids.trie import SemanticIdTrie


class PackedDecoder:
    """Decoder state of a beam search: the tokens so far of several beams per history.

    The beams of a history share its cross-attention keys and values: each beam is one more query.
    """

    def __init__(self, model: PackedT5, encoded: EncodedHistories):
        self._model, self._encoded = model, encoded
        self.start_token = model.config.decoder_start_token_id
        # Self-attention keys and values: [tokens so far, 2, layers, B * beams of the last step, heads * d_kv].
        self._past: torch.Tensor | None = None
        self._kept: torch.Tensor | None = None  # the beam of the last step that each beam continues, int64 [B * beams]
        # Of hashed prefixes, after the last step: keys [B * beams] and vectors [B * beams, d_model] of the beams.
        self._prefixes: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def written(self) -> int:
        """Number of tokens so far, without the start token."""
        return 0 if self._past is None else len(self._past)

    def step(
        self,
        tokens: torch.Tensor,
        choices: torch.Tensor,
        allowed: torch.Tensor,
        trie: SemanticIdTrie | None = None,
    ) -> torch.Tensor:
        """Append a token to every beam; log-probabilities of the candidates for the next one.

        Args:
            tokens: int64 [B, beams], the last token of every beam.
            choices: int64 [B, beams, W], candidate tokens; [W] where all beams have the same.
            allowed: bool [B, beams, W], which candidates may follow; not used if ``output_softmax`` is ``vocabulary``.
            trie: that the candidates are of; read for the first token where ``output_softmax`` is ``items``.

        Returns:
            float32 [B, beams, W].
        """
        model, encoded = self._model, self._encoded
        (batch, beams), heads = tokens.shape, (model.heads, model.width)
        written = self.written
        size = (written + 1, 2, len(model._decoder), batch * beams, model.heads * model.width)
        present = torch.empty(size, dtype=model.dtype, device=tokens.device)
        if written:
            assert self._past is not None and self._kept is not None  # keep() comes between two steps
            torch.index_select(self._past, 3, self._kept, out=present[:written])
        bias = model._decoder_bias(written)
        states = self._input(tokens)
        for layer, block in enumerate(model._decoder):
            together = F.linear(model._norm(states), block.self_in).view(batch * beams, 3, -1)
            present[written, :, layer] = together[:, 1:].transpose(0, 1)
            keys, values = present[:, :, layer].unflatten(-1, heads).unbind(1)
            if written:
                scores = (together[:, 0].unflatten(-1, heads) * keys).sum(-1).float() + bias
                weights = scores.softmax(0).to(model.dtype).unsqueeze(-1)
                values = (weights * values).sum(0)
            states = states + F.linear(values.reshape(batch, beams, -1), block.self_out)
            queries = F.linear(model._norm(states), block.cross_in).unflatten(-1, heads).transpose(1, 2)
            seen = attend(queries, encoded.keys[layer], encoded.values[layer], encoded.bias)
            states = states + F.linear(seen.transpose(1, 2).flatten(2), block.cross_out)
            states = model._feed_forward(states, block)
        self._past = present
        states = model._norm(states)
        if not model.child_softmax:
            return F.linear(states, model.output).float().log_softmax(-1).gather(-1, choices.expand(allowed.shape))
        if model.sums_items and not written:
            assert trie is not None  # who searches for items has it
            logits = first_logits(states, model.output, trie, model.pad_token, model.learned_tokens)
        else:
            users = batch
            if choices.ndim == 3:  # a few users at a time: the vectors of all users would not fit into memory
                users = max(1, vectors_at_once(states.device) // (choices[0].numel() * model.output.shape[1]))
            groups = (slice(at, at + users) for at in range(0, batch, users))
            logits = torch.cat([self._child_logits(states, choices, some) for some in groups])
        return logits.masked_fill_(~allowed, float("-inf")).log_softmax(-1)

    def _input(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings of the beams' last tokens, [B, beams, d_model]; of hashed prefixes, of the whole prefixes."""
        model, hashed = self._model, self._model.hashed
        if hashed is None or not self.written:
            vectors = F.embedding(tokens, model.embeddings).float()
            if hashed is not None:
                self._prefixes = torch.zeros_like(tokens).flatten(), torch.zeros_like(vectors).flatten(0, 1)
            return vectors
        assert self._prefixes is not None and self._kept is not None
        parents, before = (part[self._kept] for part in self._prefixes)
        added = row_sums(model.embeddings, hashed.rows(parents, tokens.flatten())).float()
        self._prefixes = hashed.next_keys(parents, tokens.flatten()), before + added
        return self._prefixes[1].view(*tokens.shape, -1)

    def _child_logits(self, states: torch.Tensor, choices: torch.Tensor, users: slice) -> torch.Tensor:
        """Logits of the choices of some users, see :meth:`step`."""
        model, states = self._model, states[users]
        choices = choices[users] if choices.ndim == 3 else choices
        if model.hashed is None or choices.ndim == 1:  # a prefix of one token has no hashed rows
            vectors = F.embedding(choices, model.output)
        else:
            assert self._prefixes is not None
            parents = self._prefixes[0].view(-1, states.shape[1], 1)[users]
            vectors = row_sums(model.output, model.hashed.rows(parents, choices))
        return choice_logits(states, choices, vectors, model.pad_token)

    def keep(self, beams: torch.Tensor) -> None:
        """Continue with beams int64 [B, new beams], positions among those of the last step."""
        assert self._past is not None  # it follows a step
        before = self._past.shape[3] // len(beams)
        self._kept = (beams + before * torch.arange(len(beams), device=beams.device).unsqueeze(-1)).flatten()
