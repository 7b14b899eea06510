"""Files of a two-stage ranker, read as one reads a stranger's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiger.data.cooccurrence import PairTable
from tiger.rankers.two_stage.features import DAYS
from tiger.rankers.two_stage.trees import checked_model
from tiger.utils.errors import DataError
from tiger.utils.json_files import read_json
from tiger.utils.schema import boolean, check_fields, list_of, optional, shown, text, whole
from tiger.utils.tensor_files import read_arrays

if TYPE_CHECKING:
    import lightgbm

TREES, COUNTS, VECTORS, SETTINGS = "trees.json", "counts.safetensors", "vectors.safetensors", "two_stage.json"
HYBRID_COLUMN = "text: hybrid"  # orders by itself where no trees were kept
MAX_MODELS = 100
MAX_PROPOSED = 100_000
AGAIN = "run recipes/two_stage.py again."
_FLOATS = ("F16", "F32")


def read_settings(file: Path, version: int, old_versions: tuple[int, ...]) -> dict[str, Any]:
    """``two_stage.json``, of this version or of an old one; the first lacks ``assume_last_day``: it is true there.
    Where ``learned_with_memory`` is missing, it is not known.

    Raises:
        DataError: missing, damaged or of another version.
    """
    settings = read_json(file)
    if settings.get("format") in old_versions:
        settings = {"assume_last_day": True} | settings | {"format": version}
    if settings.get("format") != version:
        raise DataError(f"{file} has format {shown(settings.get('format'))}, this tiger reads {version}: {AGAIN}")
    rules = {
        "columns": list_of(text(200), longest=1000),
        "semantic_ids": text(64),
        "num_proposed": whole(1, MAX_PROPOSED),
        "record": lambda value: isinstance(value, dict),
        "assume_last_day": lambda value: isinstance(value, bool),
    }
    check_fields(settings, rules, file, learned_with_memory=optional(boolean))
    if not settings["columns"] or len(set(settings["columns"])) < len(settings["columns"]):
        raise DataError(f"{file} is damaged: no columns, or one of them twice.")
    return settings


def read_trees(file: Path, columns: list[str]) -> list[lightgbm.Booster]:
    """The trees of ``trees.json``, over rows of these features; none where the hybrid's score alone is read.

    Raises:
        DataError: missing, damaged, or trees that read anything else.
    """
    import lightgbm

    saved = read_json(file)
    check_fields(saved, {"lightgbm": list_of(lambda value: isinstance(value, str), longest=MAX_MODELS)}, file)
    if not saved["lightgbm"] and columns != [HYBRID_COLUMN]:
        raise DataError(f"{file} is damaged: it holds no trees.")
    try:
        return [lightgbm.Booster(model_str=checked_model(one, len(columns))) for one in saved["lightgbm"]]
    except (DataError, lightgbm.basic.LightGBMError) as error:
        raise DataError(f"{file} is damaged ({' '.join(str(error).split())}): {AGAIN}") from error


def read_vectors(file: Path, num_items: int) -> np.ndarray | None:
    """Content vectors, float [items, D]; None: there is no such file.

    Raises:
        DataError: damaged, or of another number of items.
    """
    return read_arrays(file, {"vectors": (_FLOATS, (num_items, None))})["vectors"] if file.exists() else None


def read_counts(file: Path, num_items: int) -> dict[str, np.ndarray]:
    """Counts of a log over so many items: ``keys``, ``values``, ``events`` and ``company``, see
    :class:`tiger.rankers.two_stage.candidates.Candidates`.

    Raises:
        DataError: missing, damaged, or of other items.
    """
    counts = read_arrays(
        file,
        {
            "keys": ("I64", (None,)),
            "values": ("F32", (None, len(PairTable.FACTS))),
            "events": ("I64", (None,)),
            "company": (_FLOATS, (num_items, None)),
        },
    )
    keys, events = counts["keys"], counts["events"]
    if len(keys) != len(counts["values"]) or (counts["values"] < 0).any():
        raise DataError(f"{file} is damaged: pairs without counts, or counts below 0.")
    for name, values, end in (("keys", keys, num_items**2), ("events", events, num_items * DAYS)):
        if len(values) and (values[0] < 0 or values[-1] >= end or (values[1:] < values[:-1]).any()):
            raise DataError(f"{file} is damaged: {name} are not ascending within the catalog of {num_items} items.")
    if (keys[1:] == keys[:-1]).any():
        raise DataError(f"{file} is damaged: it counts a pair twice.")
    return counts
