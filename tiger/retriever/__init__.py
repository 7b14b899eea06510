"""The retriever: a T5 that proposes next items, its examples, training and search."""

from typing import TYPE_CHECKING

from tiger.utils.lazy import lazy_names

if TYPE_CHECKING:
    from tiger.retriever.config import RetrieverConfig as RetrieverConfig
    from tiger.retriever.config import check_pair as check_pair
    from tiger.retriever.config import t5_config as t5_config
    from tiger.retriever.model import TigerT5 as TigerT5
    from tiger.retriever.search_options import SearchOptions as SearchOptions
    from tiger.retriever.trainer import RetrieverTrainer as RetrieverTrainer
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "RetrieverConfig": "tiger.retriever.config",
            "RetrieverTrainer": "tiger.retriever.trainer",
            "SearchOptions": "tiger.retriever.search_options",
            "TigerT5": "tiger.retriever.model",
            "check_pair": "tiger.retriever.config",
            "t5_config": "tiger.retriever.config",
        },
    )
