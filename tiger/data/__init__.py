"""Tables to arrays: datasets, sequences, splits, co-occurrence counts."""

from typing import TYPE_CHECKING

from tiger.utils.lazy import lazy_names

if TYPE_CHECKING:
    from tiger.data.dataset import RecommendationData as RecommendationData
    from tiger.data.importing.importer import ImportOptions as ImportOptions
    from tiger.data.importing.importer import import_tables as import_tables
    from tiger.data.importing.report import ImportReport as ImportReport
    from tiger.data.readers import item_table as item_table
    from tiger.data.readers import read_events as read_events
    from tiger.data.readers import read_items as read_items
    from tiger.data.sequences import SECONDS_PER_DAY as SECONDS_PER_DAY
    from tiger.data.sequences import Sequences as Sequences
    from tiger.data.splits import LeaveOneOut as LeaveOneOut
    from tiger.data.splits import TemporalSplit as TemporalSplit
    from tiger.utils.errors import DataError as DataError
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "DataError": "tiger.utils.errors",
            "ImportOptions": "tiger.data.importing.importer",
            "ImportReport": "tiger.data.importing.report",
            "LeaveOneOut": "tiger.data.splits",
            "RecommendationData": "tiger.data.dataset",
            "SECONDS_PER_DAY": "tiger.data.sequences",
            "Sequences": "tiger.data.sequences",
            "TemporalSplit": "tiger.data.splits",
            "import_tables": "tiger.data.importing.importer",
            "item_table": "tiger.data.readers",
            "read_events": "tiger.data.readers",
            "read_items": "tiger.data.readers",
        },
    )
