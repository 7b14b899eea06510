"""A durable log of updates in one order, which any number of services append to and replay."""

from __future__ import annotations

import json
import time
from typing import Any

from tiger.utils.errors import DataError
from tiger.utils.schema import check_fields, list_of, optional, text, whole
from tiger.utils.stores import open_store, read_object

FORMAT = 1
BEGINNING = "log.json"
_RULES = {
    "format": whole(FORMAT, FORMAT),
    "kind": lambda value: value in ("add", "remove"),
    "item_ids": list_of(text(10_000), longest=100_000),
}


class UpdateLog:
    """A folder with a file for each update, ``000000000001.json`` being the first.

    A number is taken by who creates its file, which only one can, so that all services have the same order without a
    process that gives it. What is there is never changed.

    Args:
        place: a directory that all services share, or a URL of object storage that creates a file only where there is
            none (S3 does).
    """

    def __init__(self, place: str):
        self._store = open_store(place)

    @property
    def place(self) -> str:
        return self._store.place

    def begin(self, model: str) -> None:
        """Begin the log of a model, or check that it is its log.

        Args:
            model: digest of the manifest of what updates are made to.

        Raises:
            DataError: it is the log of another model.
        """
        self._store.create(BEGINNING, json.dumps({"format": FORMAT, "model": model}).encode())
        begun = read_object(self._store, BEGINNING)
        if begun is None or begun.get("format") != FORMAT or begun.get("model") != model:
            known = "an unknown one" if begun is None else repr(begun.get("model"))
            raise DataError(
                f"{self.place} is the log of updates of another model ({known}, not {model!r}): begin another log "
                "where the model was saved anew."
            )

    def read(self, number: int) -> dict[str, Any] | None:
        """An update, counted from 1; None: there is none yet.

        Raises:
            DataError: it is damaged.
        """
        name = _name(number)
        found = read_object(self._store, name)
        if found is not None:
            rules = {"texts": optional(list_of(text(100_000), longest=100_000)), "vectors": optional(text(1 << 28))}
            check_fields(found, _RULES, f"{self.place}/{name}", **rules)
        return found

    def append(self, number: int, change: dict[str, Any]) -> bool:
        """Make an update the one of this number; False: another one is. When this returns, it is durable.

        Raises:
            OSError: it can't be written.
        """
        entry = {"format": FORMAT, "time": round(time.time(), 3)} | change
        try:
            return self._store.create(_name(number), json.dumps(entry).encode())
        except DataError as error:  # told to the client as every update that can't be saved
            raise OSError(str(error)) from error


def _name(number: int) -> str:
    return f"{number:012d}.json"
