"""Options whose values may also come from environment variables, ``TIGER_`` and the option's name; the command line
wins."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from tiger.cli.common import spellings
from tiger.utils.errors import DataError

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class Setting:
    """Default of an option: the value of its variable, which is read when the verb runs.

    Args:
        variable: name of the environment variable.
        default: where that is absent or empty.
        parse: makes a value of the variable's text; raises ValueError or :class:`argparse.ArgumentTypeError`.
        choices: the values allowed; None: any.
    """

    variable: str
    default: Any
    parse: Callable[[str], Any]
    choices: Sequence[Any] | None = None

    def read(self, environment: Mapping[str, str]) -> Any:
        """The value.

        Raises:
            DataError: the variable holds something else.
        """
        given = environment.get(self.variable, "")
        if not given.strip():
            return self.default
        try:
            value = self.parse(given.strip())
        except (ValueError, argparse.ArgumentTypeError) as error:
            kind = {int: "a whole number is", float: "a number is"}.get(self.parse)  # type: ignore[call-overload]
            reason = str(error) if kind is None else f"{kind} needed"
            raise DataError(f"{self.variable}={given[:100]!r}: {reason}. Change or unset it.") from error
        if self.choices is not None and value not in self.choices:
            allowed = ", ".join(map(str, self.choices))
            raise DataError(f"{self.variable}={given[:100]!r}: give one of {allowed}.")
        return value


def add_option(parser: argparse._ActionsContainer, name: str, **options: Any) -> None:
    """Add an option, by the names ``--a_b`` and ``--a-b``, with a variable ``TIGER_A_B``.

    Args:
        name: with underscores, or that of a positional argument: ``model``, without dashes.
        options: as for ``add_argument``. An option with ``nargs="+"`` is a variable with spaces or commas between
            values; ``action=BooleanOptionalAction`` one of :data:`TRUE` or :data:`FALSE`.
    """
    bare = name.removeprefix("--")
    variable, kind = f"TIGER_{bare.upper()}", options.get("type", str)
    parse: Callable[[str], Any] = kind
    if options.get("action") is argparse.BooleanOptionalAction:
        parse = _truth
    elif options.get("nargs") == "+":
        parse = _words
    options["default"] = Setting(variable, options.get("default"), parse, options.get("choices"))
    options["help"] = f"{options['help']} [${variable}]"
    parser.add_argument(*(spellings(name) if name.startswith("--") else [name]), **options)


def read_settings(args: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Replace options that the command line lacks by their variables, or defaults.

    Returns:
        The variable of each option that has its value from one.

    Raises:
        DataError: a variable holds what the option can't have.
    """
    used = {}
    for name, value in vars(args).items():
        if isinstance(value, Setting):
            setattr(args, name, value.read(environment))
            if environment.get(value.variable, "").strip():
                used[name] = value.variable
    return used


def check_settings(used: Mapping[str, str], args: argparse.Namespace, kind: Callable[..., Any]) -> None:
    """Name the variable whose value the settings refuse.

    Args:
        used: of :func:`read_settings`.
        kind: the dataclass of the settings; its fields have the names of options.

    Raises:
        DataError: it refuses a value that comes from a variable.
    """
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for name, variable in used.items():
        value = getattr(args, name)
        if name in names:
            try:
                kind(**{name: tuple(value) if isinstance(value, list) else value})
            except DataError as error:
                raise DataError(f"{variable}: {error}") from error


def _truth(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise ValueError("give 1 or 0")
    return text.lower() in TRUE


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()
