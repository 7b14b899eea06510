"""The configuration of the T5: its sizes, and the fields of our own with what they say."""

from __future__ import annotations

from transformers import T5Config, T5ForConditionalGeneration

from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.vocabulary import PAD_TOKEN
from tiger.utils.errors import DataError

HISTORY_ATTENTION = ("causal", "full")


def is_causal(model: T5ForConditionalGeneration) -> bool:
    """Whether an item of the history sees only itself and earlier items. A T5 from elsewhere sees all."""
    return getattr(model.config, "history_attention", "full") == "causal"


def chooses_among_siblings(model: T5ForConditionalGeneration) -> bool:
    """Whether a token's probability is that among the tokens that may follow the same prefix."""
    return getattr(model.config, "token_choice", "all") == "siblings"


def history_item_length(model: T5ForConditionalGeneration, depth: int) -> int:
    """Tokens of an item in the history; all ``depth`` of them unless the config says otherwise."""
    return getattr(model.config, "history_item_length", depth)


def t5_config(
    tokenizer: SemanticIdTokenizer,
    d_model: int = 128,
    num_layers: int = 4,
    num_heads: int = 6,
    d_kv: int = 64,
    d_ff: int = 1024,
    dropout_rate: float = 0.1,
    num_decoder_layers: int | None = None,
    history_attention: str = "causal",
) -> T5Config:
    """The T5 of TIGER (arXiv 2305.05065, section 4) over a tokenizer's tokens.

    Args:
        history_attention: ``causal``: an item of the history sees itself and earlier items, so that training encodes a
            user once for all targets. ``full``: every item sees all, as in the paper; training encodes each target's
            history anew.
    """
    if history_attention not in HISTORY_ATTENTION:
        raise DataError(f"history_attention must be one of {HISTORY_ATTENTION}, got {history_attention!r}.")
    return T5Config(
        vocab_size=tokenizer.vocab_size,
        d_model=d_model,
        d_kv=d_kv,
        d_ff=d_ff,
        num_layers=num_layers,
        num_decoder_layers=num_decoder_layers,
        num_heads=num_heads,
        dropout_rate=dropout_rate,
        feed_forward_proj="relu",
        pad_token_id=PAD_TOKEN,
        decoder_start_token_id=PAD_TOKEN,
        eos_token_id=None,
        history_attention=history_attention,
        history_item_length=tokenizer.history_depth,
        token_choice="siblings" if tokenizer.tokens == "prefixes" else "all",
        semantic_ids=tokenizer.fingerprint,
    )


def check_pair(model: T5ForConditionalGeneration, tokenizer: SemanticIdTokenizer) -> None:
    """Refuse a model that was made for other semantic IDs.

    Raises:
        ValueError: the fingerprints or the vocabulary sizes differ.
    """
    made_for = getattr(model.config, "semantic_ids", None)
    if made_for is not None and made_for != tokenizer.fingerprint:
        raise ValueError(
            f"this model was made for semantic IDs {made_for}, the tokenizer holds {tokenizer.fingerprint}: "
            "use the tokenizer saved with the model"
        )
    if chooses_among_siblings(model) != (tokenizer.tokens == "prefixes"):
        kind = "prefixes" if chooses_among_siblings(model) else "codes"
        raise ValueError(f"this model's tokens are {kind}, the tokenizer's are {tokenizer.tokens}: use with_tokens")
    if model.config.vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"the model has {model.config.vocab_size} tokens, the tokenizer {tokenizer.vocab_size}: "
            "make the model with t5_config(tokenizer), or use grow_vocabulary after adding items"
        )
