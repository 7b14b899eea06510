"""Numbers of users by a hash of their ids: the same in every process and on every machine."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np


def user_numbers(user_ids: Iterable, count: int) -> np.ndarray:
    """Share users out among ``count`` numbers by BLAKE2b of their ids as UTF-8 text.

    Args:
        user_ids: texts, or what ``str`` makes texts of; None where the user is unknown.
        count: how many numbers there are.

    Returns:
        int64 [n], from 1 to ``count``, and 0 for an unknown user.
    """
    return np.array([0 if user is None else 1 + _hash(str(user)) % count for user in user_ids], dtype=np.int64)


def _hash(user: str) -> int:
    return int.from_bytes(blake2b(user.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
