"""Item texts, or the log, to vectors."""

from typing import TYPE_CHECKING

from tiger.utils.lazy import lazy_names

if TYPE_CHECKING:
    from tiger.embeddings.auto import load_encoder as load_encoder
    from tiger.embeddings.base import check_embeddings as check_embeddings
    from tiger.embeddings.base import load_embeddings as load_embeddings
    from tiger.embeddings.item_text import MAX_TEXT as MAX_TEXT
    from tiger.embeddings.item_text import check_texts as check_texts
    from tiger.embeddings.item_text import item_texts as item_texts
    from tiger.embeddings.lsa_encoder import LSAEncoder as LSAEncoder
    from tiger.embeddings.sentence_encoder import DEFAULT_ENCODER as DEFAULT_ENCODER
    from tiger.embeddings.sentence_encoder import SentenceEncoder as SentenceEncoder
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "DEFAULT_ENCODER": "tiger.embeddings.sentence_encoder",
            "LSAEncoder": "tiger.embeddings.lsa_encoder",
            "MAX_TEXT": "tiger.embeddings.item_text",
            "SentenceEncoder": "tiger.embeddings.sentence_encoder",
            "check_embeddings": "tiger.embeddings.base",
            "check_texts": "tiger.embeddings.item_text",
            "item_texts": "tiger.embeddings.item_text",
            "load_embeddings": "tiger.embeddings.base",
            "load_encoder": "tiger.embeddings.auto",
        },
    )
