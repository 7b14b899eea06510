"""A bounded cache of what filters are compiled to, shared by threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

# Of a million items, a filter takes five megabytes: some fifty of them. Set by hand, not tuned.
MAX_ENTRIES = 256
MAX_BYTES = 256 * 2**20


class FilterCache:
    """Values by key; what was used longest ago makes room.

    Args:
        max_entries, max_bytes: limits of all values together; the last one stays, however large it is.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES):
        self.max_entries, self.max_bytes = max_entries, max_bytes
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self.nbytes = 0

    def get(self, key: Hashable, make: Callable[[], tuple[Any, int]]) -> Any:
        """The value of a key.

        Args:
            make: gives the value and its bytes where it is not here. Two threads that miss it both call it, so that
                nobody waits for another's filter.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
        made = make()
        with self._lock:
            self.nbytes += made[1] - self._values.pop(key, (None, 0))[1]
            self._values[key] = made
            while len(self._values) > 1 and (len(self._values) > self.max_entries or self.nbytes > self.max_bytes):
                self.nbytes -= self._values.popitem(last=False)[1][1]
        return made[0]
