"""A T5 that proposes: model, examples, training, search."""

from tiger.utils.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "TigerTrainer": "tiger.retriever.trainer",
        "check_pair": "tiger.retriever.config",
        "t5_config": "tiger.retriever.config",
    },
)
