"""The recommender: retriever, tokenizer, encoder and ranker as one object and one directory."""

from typing import TYPE_CHECKING

from tiger.utils.lazy import lazy_names

if TYPE_CHECKING:
    from tiger.recommender.recommender import TigerRecommender as TigerRecommender
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "TigerRecommender": "tiger.recommender.recommender",
        },
    )
