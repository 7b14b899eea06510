"""Recipe settings: a YAML file, then the command line, into dataclasses; a key that nobody knows is an error."""

from __future__ import annotations

import difflib
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from tiger.utils.errors import DataError

# Keys that changed: the old ones work for one release.
ALIASES = {"committee": "num_seeds", "log_weight": "cooccurrence_weight", "yardsticks": "baselines"}


def parse_arguments(kinds: Sequence[type], argv: Sequence[str] | None = None) -> tuple:
    """Dataclasses filled from ``recipe.yaml [more.yaml ...] [--key value ...]``; what comes later wins.

    Args:
        kinds: dataclass types, ``TrainingArguments`` among them if you like.
        argv: the command line (default: this process's).

    Raises:
        DataError: a file is missing or no mapping, or a key is unknown.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    known = sorted(field.name for kind in kinds for field in fields(kind) if field.init)
    arguments: list[str] = []
    while argv and not argv[0].startswith("-"):
        arguments += _from_yaml(Path(argv.pop(0)), known)
    for place, word in enumerate(argv):
        if word.startswith("--"):
            given, equals, value = word[2:].partition("=")
            key = _current(given.replace("-", "_"), known)
            _check_key(key, known, "command line")
            argv[place] = f"--{key}{equals}{value}"
    return HfArgumentParser(list(kinds)).parse_args_into_dataclasses(args=arguments + argv)


def _from_yaml(file: Path, known: list[str]) -> list[str]:
    if not file.is_file():
        raise DataError(f"{file} is missing: give the YAML file of a recipe, such as recipes/demo/retriever.yaml.")
    try:
        settings = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise DataError(f"{file} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise DataError(f"{file} must hold `key: value` lines.")
    arguments = []
    for key, value in settings.items():
        key = _current(str(key), known)
        _check_key(key, known, str(file))
        if value is None or value == []:
            continue
        if isinstance(value, dict):
            value = json.dumps(value)
        # As words, which argparse turns into the field's own type: YAML reads 1e-3 as text.
        arguments += [f"--{key}", *(str(entry) for entry in (value if isinstance(value, list) else [value]))]
    return arguments


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
