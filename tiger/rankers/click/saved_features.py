"""Settings of item features, read from a file that may be damaged or come from a stranger."""

from __future__ import annotations

import os
from typing import Any

from tiger.utils.errors import DataError
from tiger.utils.json_files import read_json
from tiger.utils.schema import check_fields, dict_of, number, optional, shown, text, whole

MAX_HASHES = 64  # rows of an item: int32 [items, num_hashes] is held for all of them; 2 are usual
_RULES = {
    "kind": text(200),
    "budget": whole(1, 1 << 31),
    "num_codebooks": whole(1, 64),
    "codebook_size": whole(1, 65_534),
    "n": whole(1, 64),
    "num_hashes": whole(1, MAX_HASHES),
    "seed": whole(0, 1 << 50),
    "pieces": optional(dict_of(number(-1e9, 1e9), 1 << 24)),
}


def read_settings(file: str | os.PathLike, version: int, first_character: int) -> dict[str, Any]:
    """Arguments of :class:`tiger.rankers.click.features.ItemFeatures`.

    Args:
        version: the format that is read.
        first_character: of the pieces' alphabet, which has one for each code of each level.

    Raises:
        DataError: the file is missing, damaged or of another version.
    """
    settings = read_json(file)
    if settings.pop("format", None) != version:
        raise DataError(f"{file} is of another version, this one reads format {version}: fit the features again.")
    check_fields(settings, _RULES, file)
    if unknown := sorted(set(settings) - set(_RULES)):
        raise DataError(f"{file} is damaged: it has {shown(unknown[0])} too.")
    pieces, levels = settings["pieces"], settings["num_codebooks"]
    characters = range(first_character, first_character + levels * settings["codebook_size"])
    possible = all(
        0 < len(piece) <= levels and all(ord(character) in characters for character in piece) for piece in pieces or ()
    )
    if ("spm" in settings["kind"].split("+")) != bool(pieces) or not possible:
        raise DataError(f"{file} is damaged: its pieces are none of its codes.")
    return settings
