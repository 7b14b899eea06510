"""Tables to arrays: datasets, sequences, splits, co-occurrence counts."""

from tiger.utils.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "DataError": "tiger.utils.errors",
        "LeaveOneOut": "tiger.data.splits",
        "RecommendationData": "tiger.data.dataset",
        "SECONDS_PER_DAY": "tiger.data.sequences",
        "Sequences": "tiger.data.sequences",
        "TemporalSplit": "tiger.data.splits",
        "item_table": "tiger.data.readers",
        "read_events": "tiger.data.readers",
        "read_items": "tiger.data.readers",
    },
)
