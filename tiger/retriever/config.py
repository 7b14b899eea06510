"""T5 configurations for semantic IDs, and the retriever's own settings inside them."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, cast

import torch
from transformers import T5Config, T5ForConditionalGeneration

from tiger._moved import old_names
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.vocabulary import PAD_TOKEN, PREFIX_KINDS, HashedPrefixVocabulary
from tiger.utils.errors import DataError
from tiger.utils.schema import Rule, boolean, dict_of, number, one_of, optional, text, whole

HISTORY_ATTENTION = ("causal", "full")
OUTPUT_SOFTMAX = ("vocabulary", "children", "items")
MAX_USER_TOKENS = 1 << 20
MAX_HASHED_ROWS = 1 << 24
HASHED_ROWS = 20_000
MAX_RECENT_ITEMS = 4096
# Before the nested config, these fields stood beside T5's own, the softmax under another name.
_FLAT_FIELDS = ("history_attention", "history_item_length", "semantic_ids", "token_choice")
_TOKEN_CHOICES = {"all": "vocabulary", "siblings": "children"}


@dataclass(frozen=True)
class RetrieverConfig:
    """Settings that T5 itself does not have; stored as ``tiger_config`` in the model's ``config.json``.

    The defaults describe a plain T5.

    Args:
        history_attention: ``causal``: in the encoder, the tokens of an item attend to that item and to earlier ones.
            ``full``: every token attends to all, as in T5.
        history_item_length: tokens per item in the encoder's input; None: as many as a semantic ID has.
        output_softmax: ``vocabulary``: a token's probability is normalized over the vocabulary, as in T5.
            ``children``: over the tokens that may follow the tokens before it in the catalog's prefix trie.
            ``items``: as ``children``, but the probability of an item's first token is the sum, over all items that
            begin with it, of a softmax over the last tokens of all items.
        semantic_ids: fingerprint of the semantic IDs that the model was made for; None: not recorded.
        user_tokens: number of tokens for users, one of which stands before a history, see
            :mod:`tiger.retriever.user_tokens`; 0: histories are items alone. Their embeddings, and that of an unknown
            user before them, follow those of items.
        hashed_rows: rows of a table that the prefixes of semantic IDs are hashed into, the last of the vocabulary, see
            :mod:`tiger.retriever.hashed_prefixes`; 0: there is none.
        unhashed_token: with ``hashed_rows``, the token that adds none of them: the collision token of the first item
            with its codes.
        recent_items: distances from the end of a history that the decoder's attention has a bias for, see
            :mod:`tiger.retriever.recency`; 0: as in T5, it doesn't know which items were the last.
        learned_tokens: with ``output_softmax: items``, tokens of the vocabulary that training knew: an item whose last
            one came later adds nothing to the probability of a first token that others begin with; 0: not recorded.

    Raises:
        DataError: a value is not one of these.
    """

    history_attention: str = "full"
    history_item_length: int | None = None
    output_softmax: str = "vocabulary"
    semantic_ids: str | None = None
    user_tokens: int = 0
    hashed_rows: int = 0
    unhashed_token: int = 0
    recent_items: int = 0
    learned_tokens: int = 0

    def __post_init__(self):
        if self.history_attention not in HISTORY_ATTENTION:
            raise DataError(f"history_attention must be one of {HISTORY_ATTENTION}, got {self.history_attention!r}.")
        if self.output_softmax not in OUTPUT_SOFTMAX:
            raise DataError(f"output_softmax must be one of {OUTPUT_SOFTMAX}, got {self.output_softmax!r}.")
        if self.history_item_length is not None and self.history_item_length < 1:
            raise DataError(f"history_item_length must be at least 1, got {self.history_item_length}.")
        if not 0 <= self.recent_items <= MAX_RECENT_ITEMS:
            raise DataError(f"recent_items must be from 0 to {MAX_RECENT_ITEMS}, got {self.recent_items}.")
        if self.learned_tokens < 0:
            raise DataError(f"learned_tokens must be at least 0, got {self.learned_tokens}.")
        if not 0 <= self.user_tokens <= MAX_USER_TOKENS:
            raise DataError(f"user_tokens must be from 0 to {MAX_USER_TOKENS}, got {self.user_tokens}.")
        if not 0 <= self.hashed_rows <= MAX_HASHED_ROWS:
            raise DataError(f"hashed_rows must be from 0 to {MAX_HASHED_ROWS}, got {self.hashed_rows}.")
        if self.hashed_rows and (self.output_softmax != "children" or self.history_item_length is None):
            raise DataError("hashed_rows need output_softmax 'children' and a history_item_length.")

    @property
    def user_rows(self) -> int:
        """Rows of the vocabulary for users: one for each token, and one for an unknown user."""
        return self.user_tokens + 1 if self.user_tokens else 0

    @classmethod
    def from_t5(cls, config: T5Config) -> RetrieverConfig:
        """Read the settings of a T5 config, nested or, as older versions saved them, beside T5's own.

        Raises:
            DataError: the nested config has fields that this version does not know.
        """
        nested = getattr(config, "tiger_config", None)
        if nested is None:
            nested = {name: getattr(config, name) for name in _FLAT_FIELDS if hasattr(config, name)}
            if "token_choice" in nested:
                choice = nested.pop("token_choice")
                nested["output_softmax"] = _TOKEN_CHOICES.get(choice, choice)
        unknown = [name for name in nested if name not in _FIELDS]
        if unknown:
            raise DataError(
                f"the model's tiger_config has unknown fields ({', '.join(unknown)}): it was saved by a newer "
                "version of this library; install that one."
            )
        return cls(**nested)

    def to_dict(self) -> dict:
        """As it is saved; without what a model has none of, as versions that don't know it save it."""
        absent = {"user_tokens", "hashed_rows", "unhashed_token", "recent_items", "learned_tokens"}
        return {name: value for name, value in asdict(self).items() if name not in absent or value}


class TigerT5Config(T5Config):
    """Config of a :class:`tiger.retriever.model.TigerT5`: a T5's, and :class:`RetrieverConfig` in ``tiger_config``.

    A plain T5 computes other probabilities from the same weights, so that the type of the model is another one.
    Configs of earlier versions, which said ``t5``, are read.
    """

    model_type = "tiger-t5"
    old_model_types = ("t5",)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        content, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if content.get("model_type") in cls.old_model_types:
            content = content | {"model_type": cls.model_type}
        return content, rest


# Values that a saved config.json may have. Sizes are those of tensors beside it.
CONFIG_RULES: dict[str, Rule] = {
    "vocab_size": whole(2, 1 << 31),
    "d_model": whole(1, 1 << 16),
    "d_kv": whole(1, 1 << 16),
    "d_ff": whole(1, 1 << 20),
    "num_layers": whole(1, 256),
    "num_heads": whole(1, 4096),
    "decoder_start_token_id": one_of(PAD_TOKEN),
}
OPTIONAL_RULES: dict[str, Rule] = {
    "num_decoder_layers": optional(whole(1, 256)),
    "relative_attention_num_buckets": whole(4, 1 << 16),
    "relative_attention_max_distance": whole(4, 1 << 20),
    "dropout_rate": number(0, 1),
    "classifier_dropout": number(0, 1),
    "layer_norm_epsilon": number(1e-12, 1),
    "initializer_factor": number(0, 1e6),
    "feed_forward_proj": one_of("relu", "gelu", "gelu_new", "silu", "gated-relu", "gated-gelu", "gated-silu"),
    "is_encoder_decoder": one_of(True),
    "is_decoder": one_of(False),
    "use_cache": boolean,
    "tie_word_embeddings": boolean,
    "scale_decoder_outputs": boolean,
    "pad_token_id": one_of(PAD_TOKEN),
    "eos_token_id": optional(whole(0, 1 << 31)),
    "tiger_config": dict_of(optional(lambda value: text(64)(value) or whole(0, 1 << 31)(value)), 20),
    "history_attention": one_of(*HISTORY_ATTENTION),
    "history_item_length": optional(whole(1, 65)),
    "semantic_ids": optional(text(64)),
    "token_choice": one_of(*_TOKEN_CHOICES),
}

# generation_config.json: single values and short lists; what they mean is up to who generates by them.
GENERATION_RULES: dict[str, Rule] = {
    "pad_token_id": optional(whole(0, 1 << 31)),
    "decoder_start_token_id": optional(whole(0, 1 << 31)),
    "num_beams": optional(whole(1, 10_000)),
    "max_length": optional(whole(1, 1 << 31)),
    "max_new_tokens": optional(whole(1, 1 << 31)),
}
_FIELDS = frozenset(field.name for field in fields(RetrieverConfig))


def nested_config(config: T5Config) -> TigerT5Config:
    """The same config, or a copy of its type where it is a plain T5's, or an older version's with the settings beside
    T5's own: they are nested."""
    flat = [name for name in _FLAT_FIELDS if hasattr(config, name)]
    flat = flat if getattr(config, "tiger_config", None) is None else []
    if isinstance(config, TigerT5Config) and not flat:
        return config
    settings = RetrieverConfig.from_t5(config)
    config = copy.deepcopy(config)
    config.__class__ = TigerT5Config  # it has no fields of its own
    for name in flat:
        delattr(config, name)
    if flat:
        config.tiger_config = settings.to_dict()
    return cast(TigerT5Config, config)


def retriever_config(model: T5ForConditionalGeneration) -> RetrieverConfig:
    """The retriever settings of a model; of a T5 from elsewhere, the defaults."""
    return RetrieverConfig.from_t5(model.config)


def is_causal(model: T5ForConditionalGeneration) -> bool:
    """Whether an item of the history attends only to itself and to earlier items."""
    return retriever_config(model).history_attention == "causal"


def uses_child_softmax(model: T5ForConditionalGeneration) -> bool:
    """Whether a token's probability is normalized over the children of its prefix only."""
    return retriever_config(model).output_softmax != "vocabulary"


def sums_items(model: T5ForConditionalGeneration) -> bool:
    """Whether the probability of a first token is the sum of those of the items that begin with it."""
    return retriever_config(model).output_softmax == "items"


def note_learned_tokens(model: T5ForConditionalGeneration) -> None:
    """Record that training knows all tokens that the vocabulary now has, see :class:`RetrieverConfig`."""
    if sums_items(model):
        model.config.tiger_config = replace(retriever_config(model), learned_tokens=item_vocabulary(model)).to_dict()


def history_item_length(model: T5ForConditionalGeneration, depth: int) -> int:
    """Tokens per item in the history; ``depth``, the length of a semantic ID, unless the config has another number."""
    length = retriever_config(model).history_item_length
    return depth if length is None else length


def reads_users(model: T5ForConditionalGeneration) -> bool:
    """Whether a user token stands before each history."""
    return retriever_config(model).user_tokens > 0


def history_places(length: int, item_length: int, has_user: bool, device: torch.device) -> torch.Tensor:
    """Return the place in the history of the item that each token belongs to; -1 for the user token.

    Args:
        length: number of tokens.
        item_length: tokens per item.
        has_user: whether a user token comes first.

    Returns:
        int64 [length].
    """
    return (torch.arange(length, device=device) - int(has_user)) // item_length


def item_vocabulary(model: T5ForConditionalGeneration) -> int:
    """Number of tokens of items: what the decoder can write. Rows of users and hashed rows follow them."""
    settings = retriever_config(model)
    return model.config.vocab_size - settings.user_rows - settings.hashed_rows


def pad_token(model: T5ForConditionalGeneration) -> int:
    """The token that pads; a T5 has one."""
    token = model.config.pad_token_id
    assert token is not None
    return token


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
    user_tokens: int = 0,
    hashed_rows: int = HASHED_ROWS,
    output_softmax: str | None = None,
    recent_items: int = 0,
) -> TigerT5Config:
    """The T5 of TIGER (arXiv 2305.05065, section 4) over a tokenizer's tokens.

    Args:
        history_attention: ``causal``: an item of the history attends to itself and to earlier items, so that training
            encodes a user once for all targets. ``full``: every item attends to all, as in the paper; training encodes
            the history of each target separately.
        user_tokens: number of tokens for users, by a hash of their ids; 2,000 in the paper. 0: none.
        hashed_rows: rows of the table that prefixes are hashed into, of a tokenizer with ``hashed_prefixes``; other
            kinds of tokens have no such table.
        output_softmax: see :class:`RetrieverConfig`; None: ``vocabulary`` for codes, ``children`` for prefixes.
        recent_items: see :class:`RetrieverConfig`.

    Raises:
        DataError: a value is out of range, or ``output_softmax`` is none that the tokenizer's kind of tokens can have.
    """
    hashed = tokenizer.vocabulary if isinstance(tokenizer.vocabulary, HashedPrefixVocabulary) else None
    if hashed is not None and hashed_rows < 1:
        raise DataError(f"hashed_rows must be at least 1 where tokens are hashed_prefixes, got {hashed_rows}.")
    softmax = softmax_of_tokens(tokenizer.tokens, output_softmax)
    settings = RetrieverConfig(
        history_attention=history_attention,
        history_item_length=tokenizer.history_depth,
        output_softmax=softmax,
        semantic_ids=tokenizer.fingerprint,
        user_tokens=user_tokens,
        hashed_rows=0 if hashed is None else hashed_rows,
        unhashed_token=0 if hashed is None else int(hashed.starts[-1]),
        recent_items=recent_items,
        learned_tokens=tokenizer.vocab_size if softmax == "items" else 0,
    )
    return TigerT5Config(  # type: ignore[call-arg]  # it takes any other field, too
        vocab_size=tokenizer.vocab_size + settings.user_rows + settings.hashed_rows,
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
        tiger_config=settings.to_dict(),
    )


def softmax_of_tokens(tokens: str, wanted: str | None) -> str:
    """``output_softmax`` for a kind of tokens.

    Raises:
        DataError: the kind of tokens can't have the wanted one.
    """
    possible = ["children"] if tokens in PREFIX_KINDS else ["vocabulary"]
    if tokens == "prefixes":
        possible.append("items")  # the last token of an item is its own, and has a row of the table
    if wanted not in (None, *possible):
        raise DataError(f"output_softmax with tokens: {tokens} must be {' or '.join(possible)}, got {wanted!r}.")
    return wanted or possible[0]


def check_pair(model: T5ForConditionalGeneration, tokenizer: SemanticIdTokenizer) -> None:
    """Check that a model was made for a tokenizer's semantic IDs.

    Raises:
        ValueError: the fingerprints, the kinds of tokens, the vocabulary sizes or the tokens an item differ.
    """
    settings = retriever_config(model)
    if settings.semantic_ids is not None and settings.semantic_ids != tokenizer.fingerprint:
        raise ValueError(
            f"this model was made for semantic IDs {settings.semantic_ids}, the tokenizer holds "
            f"{tokenizer.fingerprint}: use the tokenizer saved with the model"
        )
    by_prefix = HashedPrefixVocabulary.kind if settings.hashed_rows else "prefixes"
    kind = "codes" if settings.output_softmax == "vocabulary" else by_prefix
    if kind != tokenizer.tokens:
        raise ValueError(f"this model's tokens are {kind}, the tokenizer's are {tokenizer.tokens}: use with_tokens")
    if item_vocabulary(model) != tokenizer.vocab_size:
        raise ValueError(
            f"the model has {item_vocabulary(model)} tokens, the tokenizer {tokenizer.vocab_size}: "
            "make the model with t5_config(tokenizer), or use grow_vocabulary after adding items"
        )
    if history_item_length(model, tokenizer.depth) != tokenizer.history_depth:
        raise ValueError(
            f"the model reads {history_item_length(model, tokenizer.depth)} tokens an item of the history, the "
            f"tokenizer writes {tokenizer.history_depth}: make the model with t5_config(tokenizer)"
        )


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
