"""The recommender: retriever, tokenizer, encoder and ranker as one object and one directory."""

from tiger.utils.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "TigerRecommender": "tiger.recommender.recommender",
    },
)
