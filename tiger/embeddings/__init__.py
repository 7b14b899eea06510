"""Item texts, or the log, to vectors."""

from tiger.utils.lazy import lazy_names

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
