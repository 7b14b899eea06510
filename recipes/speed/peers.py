"""The same T5 inside other libraries: weights copied in, their own code run as they ship it."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, T5Config, T5ForConditionalGeneration

from tiger.semantic_ids.tokenizer import SemanticIdTokenizer

MAX_HISTORY = 20


def missing(package: str) -> str | None:
    """Why a peer can't run; None: it can."""
    return None if find_spec(package) else f"{package} is not installed: pip install -e '.[speed]'"


class Cornac:
    """cornac's TIGER: one user at a time, histories padded to 20 items on the left, no cache."""

    def __init__(self, config: T5Config, tokenizer: SemanticIdTokenizer):
        from cornac.models.tiger.tiger import TIGERSeq2Seq

        codes, self._tokenizer = tokenizer.semantic_ids, tokenizer
        self.level_sizes = [tokenizer.codebook_size] * tokenizer.num_codebooks + [tokenizer.vocabulary.collision_size]
        self.model = TIGERSeq2Seq(
            level_sizes=self.level_sizes,
            d_model=config.d_model,
            d_ff=config.d_ff,
            num_heads=config.num_heads,
            d_kv=config.d_kv,
            num_enc_layers=config.num_layers,
            num_dec_layers=config.num_decoder_layers,
            dropout=config.dropout_rate,
        ).eval()
        # As TIGER._build_semantic_ids makes it: for each level, a prefix's tokens.
        children: list[dict[tuple, set]] = [{} for _ in self.level_sizes]
        for row in map(tuple, codes.tolist()):
            for level, token in enumerate(row):
                children[level].setdefault(row[:level], set()).add(token)
        self._children = [
            {prefix: np.fromiter(sorted(tokens), dtype="int64") for prefix, tokens in level.items()}
            for level in children
        ]
        self._rows = {row: index for index, row in enumerate(map(tuple, codes.tolist()))}

    @torch.no_grad()
    def copy_weights(self, model: T5ForConditionalGeneration) -> None:
        """Take over a T5's weights. Its tied output layer becomes one head per level."""
        shared, sizes = model.shared.weight, self.level_sizes
        self.model.encoder.load_state_dict(_without_embeddings(model.encoder), strict=False)
        self.model.decoder.load_state_dict(_without_embeddings(model.decoder), strict=False)
        self.model.token_emb.weight.copy_(shared)
        self.model.bos.copy_(shared[model.config.decoder_start_token_id])
        scale = model.model_dim**-0.5 if model.config.scale_decoder_outputs else 1.0
        for start, size, head in zip(self.model.offsets.tolist(), sizes, self.model.heads):
            head.weight.copy_(shared[start : start + size] * scale)

    def inputs(self, histories: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B, 80], padded on the left, and their mask."""
        padded = [np.concatenate([np.full(MAX_HISTORY - len(history), -1), history]) for history in histories]
        tokens = torch.from_numpy(self._tokenizer.encode(np.stack(padded))).flatten(1)
        return tokens, (tokens != 0).float()

    def beams(self, tokens: torch.Tensor, mask: torch.Tensor, num_beams: int) -> tuple[list[int], np.ndarray]:
        """Item rows and scores for one user."""
        found, scores = self.model.generate_beam(tokens, mask, num_beams, self._children)
        return [self._rows[beam] for beam in found], scores


def _without_embeddings(stack) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in stack.state_dict().items() if "embed_tokens" not in name}


class TrieProcessor(LogitsProcessor):
    """The tuples of a table as a ``LogitsProcessor``: vectorized, so that ``generate`` is not slowed by a loop."""

    def __init__(self, table: np.ndarray):
        self._sorted = []
        keys = np.zeros(len(table), dtype=np.int64)
        self._base = int(table.max()) + 1
        for column in table.T:
            keys = keys * self._base + column
            self._sorted.append(torch.from_numpy(np.unique(keys)))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        level = input_ids.shape[1] - 1
        prefix = torch.zeros(len(input_ids), dtype=torch.int64)
        for column in input_ids[:, 1:].unbind(1):
            prefix = prefix * self._base + column
        keys = self._sorted[level]
        first = torch.searchsorted(keys, prefix * self._base)
        counts = torch.searchsorted(keys, (prefix + 1) * self._base) - first
        places = torch.arange(int(counts.max().clamp(min=1)))
        at = (first.unsqueeze(-1) + places).clamp(max=len(keys) - 1)
        allowed = places < counts.unsqueeze(-1)
        tokens = torch.where(allowed, keys[at] % self._base, 0)
        mask = torch.ones_like(scores, dtype=torch.bool).scatter_(1, tokens, ~allowed)
        mask[:, 0] = True
        return scores.masked_fill(mask, float("-inf"))


def prefix_function(table: np.ndarray):
    """The same as a ``prefix_allowed_tokens_fn``: a dictionary of prefixes."""
    children: dict[tuple, list[int]] = {}
    for row in np.unique(table, axis=0).tolist():
        for level, token in enumerate(row):
            following = children.setdefault(tuple(row[:level]), [])
            if not following or following[-1] != token:
                following.append(token)
    nothing = [0]
    return lambda batch, tokens: children.get(tuple(tokens[1:].tolist()), nothing)


def hf_generate(model, tokens: torch.Tensor, num_beams: int, depth: int, processor=None, function=None):
    """``generate`` of transformers: (tokens [B, num_beams, depth], scores [B, num_beams])."""
    out = model.generate(
        input_ids=tokens,
        attention_mask=(tokens != 0).long(),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=depth,
        min_new_tokens=depth,
        do_sample=False,
        length_penalty=0.0,
        output_scores=True,
        return_dict_in_generate=True,
        prefix_allowed_tokens_fn=function,
        logits_processor=None if processor is None else LogitsProcessorList([processor]),
    )
    shape = (len(tokens), num_beams)
    return out.sequences[:, 1:].view(*shape, depth), out.sequences_scores.view(shape)
