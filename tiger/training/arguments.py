"""Recipe settings: YAML files, then the command line, into dataclasses; an unknown key is an error."""

from __future__ import annotations

import difflib
import json
import os
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

from tiger.utils import devices
from tiger.utils.errors import DataError

# Keys that changed: the old ones work for one release.
ALIASES = {"committee": "num_seeds", "log_weight": "cooccurrence_weight", "yardsticks": "baselines"}

Source = str | os.PathLike | Mapping


class _Parser(HfArgumentParser):
    """Raises where argparse would print the usage of some 150 settings and end the process."""

    def error(self, message: str):
        raise DataError(message)

    def add_argument(self, *names, **options):
        if options.get("nargs") == "+":  # an empty list is a list too
            options["nargs"] = "*"
        return super().add_argument(*names, **options)

    def check_lists(self, settings: Mapping) -> None:
        """Refuse an empty list where a single value is wanted: of a flag, the name alone would be read as true."""
        takes_many = {action.dest for action in self._actions if action.nargs == "*"}
        for key, value in settings.items():
            if isinstance(value, list | tuple) and not value and key not in takes_many:
                raise DataError(f"settings: {key} is an empty list, but takes one value: give one, or leave it out.")


def parse_arguments(kinds: Sequence[type], argv: Sequence[str] | None = None) -> tuple:
    """Dataclasses filled from ``recipe.yaml [more.yaml ...] [--key value ...]``; what comes later wins.

    Args:
        kinds: dataclass types, ``TrainingArguments`` among them if you like.
        argv: the command line (default: this process's).

    Raises:
        DataError: a file is missing or no mapping, a key is unknown, a value is of the wrong type, or one is missing.
    """
    files, argv = checked_words(kinds, sys.argv[1:] if argv is None else argv)
    return _filled(kinds, merged(kinds, *files), argv)


def checked_words(kinds: Sequence[type], argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files and options of a command line, the options by their present names; nothing is filled in.

    Raises:
        DataError: a key is unknown.
    """
    argv, files = list(argv), []
    while argv and not argv[0].startswith("-"):
        files.append(argv.pop(0))
    known = known_keys(kinds)
    for place, word in enumerate(argv):
        if word.startswith("--"):
            given, equals, value = word[2:].partition("=")
            key = _current(given.replace("-", "_"), known)
            _check_key(key, known, "command line")
            argv[place] = f"--{key}{equals}{value}"
    return files, argv


def read_arguments(kinds: Sequence[type], *sources: Source) -> tuple:
    """Dataclasses filled from YAML files and mappings; what comes later wins.

    Args:
        kinds: as for :func:`parse_arguments`.
        sources: paths of YAML files, and mappings of keys to values: a string is turned into the field's own type,
            None stands for the field's default.

    Raises:
        DataError: as for :func:`parse_arguments`.
    """
    return _filled(kinds, merged(kinds, *sources), [])


def merged(kinds: Sequence[type], *sources: Source, also: Collection[str] = ()) -> dict:
    """The settings of YAML files and mappings in one mapping, their keys checked; what comes later wins.

    Args:
        kinds, sources: as for :func:`read_arguments`.
        also: further keys that a source may have.
    """
    known = sorted({*known_keys(kinds), *also})
    settings: dict[str, Any] = {}
    for source in sources:
        found = source if isinstance(source, Mapping) else read_yaml(source)
        found = {_current(str(key), known): value for key, value in found.items()}
        for key in found:
            _check_key(key, known, "settings" if isinstance(source, Mapping) else str(source))
        settings |= found
    return settings


def known_keys(kinds: Sequence[type]) -> list[str]:
    """Names of the fields that a caller may set."""
    return sorted(field.name for kind in kinds for field in fields(kind) if field.init)


def read_yaml(file: str | os.PathLike) -> dict:
    """The mapping that a recipe's YAML file holds.

    Raises:
        DataError: it is missing, or no mapping.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError(f"{file} is missing: give the YAML file of a recipe, such as recipes/demo/retriever.yaml.")
    try:
        settings = yaml.safe_load(file.read_text()) or {}
    except (yaml.YAMLError, ValueError) as error:  # of a date that is none, or of bytes that are no text
        raise DataError(f"{file} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise DataError(f"{file} must hold `key: value` lines.")
    return settings


def as_words(settings: Mapping) -> list[str]:
    """Settings as command-line arguments, which argparse converts to the fields' types: YAML reads 1e-3 as text."""
    words = []
    for key, value in settings.items():
        if value is None:
            continue
        if isinstance(value, list | tuple):
            words += [f"--{key}", *map(str, value)]
        else:
            words.append(f"--{key}={json.dumps(value) if isinstance(value, Mapping) else value}")
    return words


def _filled(kinds: Sequence[type], settings: Mapping, argv: Sequence[str]) -> tuple:
    words = [*as_words(settings), *argv]
    if TrainingArguments in kinds and devices.is_host(devices.fastest()):
        words += ["--use_cpu", "true"]  # Trainer allows bfloat16 on a CPU only with it
    parser = _Parser(list(kinds))  # type: ignore[arg-type]  # wants a NewType, which no dataclass is
    parser.check_lists(settings)
    return parser.parse_args_into_dataclasses(args=words)


def _current(key: str, known: list[str]) -> str:
    """A key, or the new name of one that changed."""
    negation = "no_" if key.startswith("no_") else ""
    new = ALIASES.get(key.removeprefix(negation))
    if key in known or new not in known:
        return key
    warnings.warn(
        f"{key} is now {negation}{new}. The old key goes with the next release.", DeprecationWarning, stacklevel=4
    )
    return f"{negation}{new}"


def _check_key(key: str, known: list[str], place: str) -> None:
    if key not in known and key != "help" and not (key.startswith("no_") and key[3:] in known):
        close = difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known)}."
        raise DataError(f"{place}: unknown key {key!r}.{hint}")
