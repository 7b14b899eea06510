"""Settings of the retriever's training."""

from __future__ import annotations

from dataclasses import dataclass, field

from tiger.data.splits import LEAVE_ONE_OUT, SPLIT_HELP
from tiger.retriever.config import HASHED_ROWS
from tiger.semantic_ids.vocabulary import HashedPrefixVocabulary
from tiger.utils.errors import DataError


@dataclass
class RetrieverArguments:
    """Settings of :func:`tiger.train_retriever` beside ``TrainingArguments``; the keys of ``retriever.yaml``."""

    dataset: str = field(metadata={"help": "dataset directory, or owner/name on the Hub"})
    tokenizer: str = field(metadata={"help": "directory of a fitted tokenizer"})
    model_dir: str = field(metadata={"help": "output directory for the recommender"})
    shuffle_ties: int | None = field(
        default=None, metadata={"help": "seed: events of one day in random order; default: as published"}
    )
    max_history: int = field(default=20, metadata={"help": "maximum number of history items that the model reads"})
    history_attention: str = field(default="causal", metadata={"help": "causal (fast) or full (as in the paper)"})
    tokens: str = field(
        default="codes",
        metadata={
            "help": "tokens of the T5: codes, as in the paper, prefixes (of semantic IDs), hashed_prefixes (codes "
            "and a table of one size for every catalog), or auto: prefixes in a catalog of up to 300,000 items, else "
            "codes"
        },
    )
    hashed_rows: int = field(
        default=HASHED_ROWS,
        metadata={"help": "with tokens: hashed_prefixes, rows of the table that prefixes are hashed into"},
    )
    output_softmax: str | None = field(
        default=None,
        metadata={
            "help": "what a token's probability is normalized over: vocabulary (tokens: codes), children (of its "
            "prefix), items (with tokens: prefixes: as children, but a first token's is the sum over its items), or "
            "auto: items with prefixes in a catalog of up to 50,000 items; default: vocabulary for codes, children "
            "for prefixes"
        },
    )
    recent_items: int = field(
        default=0,
        metadata={
            "help": "distances from the end of a history for which the decoder's attention learns a bias; further "
            "items share the last; 0: none, as in T5"
        },
    )
    user_tokens: int = field(
        default=0, metadata={"help": "tokens before the history, by a hash of the user; 2000 in the paper; 0: none"}
    )
    d_model: int = field(default=128, metadata={"help": "dimensions of a token"})
    d_kv: int = field(default=64, metadata={"help": "dimensions of an attention head"})
    d_ff: int = field(default=1024, metadata={"help": "hidden units of a feed-forward layer"})
    num_heads: int = field(default=6, metadata={"help": "attention heads of a layer"})
    num_layers: int = field(default=4, metadata={"help": "layers of the encoder"})
    num_decoder_layers: int | None = field(
        default=None, metadata={"help": "layers of the decoder; default: as many as the encoder has"}
    )
    dropout_rate: float = field(default=0.1, metadata={"help": "dropout of all layers"})
    start_from: str = field(
        default="",
        metadata={
            "help": "embedding initialization: sources and their shares of the dimensions, such as log:3, words:3, "
            "texts:2 (or codes); default: random"
        },
    )
    start_share: float = field(
        default=1.0, metadata={"help": "share of the embeddings' variance that comes from start_from"}
    )
    embeddings: str | None = field(
        default=None, metadata={"help": "safetensors with the tokenizer's encoder's vectors, in place of running it"}
    )
    embedding_learning_rate: float | None = field(
        default=None, metadata={"help": "learning rate of the token embeddings; default: learning_rate"}
    )
    muon_learning_rate: float | None = field(
        default=None, metadata={"help": "step matrices by Muon, at this rate; default, and 0: AdamW for all"}
    )
    memory: bool = field(
        default=False,
        metadata={"help": "store what followed each item in the log, and mix it with the T5's probabilities"},
    )
    cuda_graphs: bool = field(
        default=False, metadata={"help": "on one GPU: replay training steps as CUDA graphs; code tokens only"}
    )
    train_share: float = field(
        default=1.0,
        metadata={"help": "train on this share of the users, drawn by the seed; a larger share holds a smaller one"},
    )
    work_share: float = field(
        default=1.0,
        metadata={
            "help": "with init_from: share of the work of all users' epochs, spent on users with events since the "
            "parent's log, then on others, by the seed; fewer epochs where those alone are more"
        },
    )
    min_steps: int = field(
        default=0,
        metadata={"help": "minimum number of steps: small datasets train for more epochs than num_train_epochs"},
    )
    eval_users: int | None = field(default=None, metadata={"help": "number of validation users; default: all"})
    eval_beams: int = field(default=20, metadata={"help": "beams while validating"})
    patience: int | None = field(
        default=None, metadata={"help": "stop after this number of evaluations without improvement"}
    )
    split: str = field(default=LEAVE_ONE_OUT, metadata={"help": SPLIT_HELP})
    init_from: str | None = field(
        default=None,
        metadata={"help": "directory of a recommender whose weights training goes on from"},
    )
    exclude_history: bool | None = field(
        default=None,
        metadata={
            "help": "leave out items of the history while validating; default: unless 1 in 20 next items repeats it"
        },
    )

    def __post_init__(self) -> None:
        """
        Raises:
            DataError: a table of hashed rows is asked for that the tokens have no use for.
        """
        if self.hashed_rows != HASHED_ROWS and self.tokens not in (HashedPrefixVocabulary.kind, "auto"):
            raise DataError(f"hashed_rows goes with tokens: hashed_prefixes, not {self.tokens}: leave it out.")
