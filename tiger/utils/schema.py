"""Rules for values of JSON that may come from a stranger: of what type they are, and how large they may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tiger.utils.errors import DataError

Rule = Callable[[Any], bool]


def check_fields(content: Mapping[str, Any], required: Mapping[str, Rule], where: object, **optional: Rule) -> None:
    """Check values by name; names without a rule are left to those who read them.

    Args:
        required: a rule for each name that must be there.
        where: what error messages call the content.
        optional: rules for names that may be missing.

    Raises:
        DataError: a name is missing, or its value breaks the rule.
    """
    if missing := [name for name in required if name not in content]:
        raise DataError(f"{where} is damaged: it lacks {', '.join(missing)}.")
    for name, rule in {**required, **optional}.items():
        if name in content and not rule(content[name]):
            raise DataError(f"{where} is damaged: its {name} can't be {shown(content[name])}.")


def shown(value: object) -> str:
    """A value for an error message: short, on one line."""
    try:
        text = repr(value)
    except ValueError:  # a number of 5,000 digits
        text = "a number of that many digits"
    return text if len(text) <= 60 else text[:57] + "..."


def whole(low: int, high: int) -> Rule:
    """A whole number from ``low`` to ``high``."""
    return lambda value: type(value) is int and low <= value <= high


def number(low: float, high: float) -> Rule:
    """A finite number from ``low`` to ``high``."""
    return lambda value: type(value) in (int, float) and low <= value <= high and math.isfinite(value)


def text(longest: int = 1000) -> Rule:
    """Unicode text of at most so many characters."""

    def rule(value: Any) -> bool:
        if not isinstance(value, str) or len(value) > longest:
            return False
        try:
            return bool(value.encode() or True)
        except UnicodeEncodeError:  # half a character
            return False

    return rule


def one_of(*values: Any) -> Rule:
    """One of these values, of its type."""
    return lambda value: any(type(value) is type(other) and value == other for other in values)


def optional(rule: Rule) -> Rule:
    """None, or what the rule says."""
    return lambda value: value is None or rule(value)


def list_of(rule: Rule, longest: int) -> Rule:
    """A list of at most so many values, each as the rule says."""
    return lambda value: isinstance(value, list) and len(value) <= longest and all(map(rule, value))


def dict_of(rule: Rule, most: int) -> Rule:
    """An object of at most so many names, each value as the rule says."""
    return lambda value: isinstance(value, dict) and len(value) <= most and all(map(rule, value.values()))


def boolean(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)
