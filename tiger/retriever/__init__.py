"""The retriever: a T5 that proposes next items, its examples, training and search."""

from tiger.utils.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "RetrieverConfig": "tiger.retriever.config",
        "SearchOptions": "tiger.retriever.search_options",
        "TigerT5": "tiger.retriever.model",
        "TigerTrainer": "tiger.retriever.trainer",
        "check_pair": "tiger.retriever.config",
        "t5_config": "tiger.retriever.config",
    },
)
