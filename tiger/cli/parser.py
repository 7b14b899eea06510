"""The parser of the command line: options in both spellings, and the nearest name for one that there is not."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from tiger.cli.common import spellings


class Parser(argparse.ArgumentParser):
    """A parser that knows ``--a_b`` as ``--a-b`` too, and names what seems to be meant by a wrong name."""

    def know_both_spellings(self) -> None:
        """Add the other spelling of every option so far, of verbs as well; help keeps those that were given."""
        for name, action in list(self._option_string_actions.items()):
            if name.startswith("--"):
                for other in spellings(name):
                    self._option_string_actions.setdefault(other, action)
        for verb in self._verbs().values():
            verb.know_both_spellings()

    def _verbs(self) -> dict[str, Parser]:
        groups = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return {name: verb for group in groups for name, verb in group.choices.items()}

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        # Both spellings of one option are no two options that a shortened name could mean.
        found = super()._get_option_tuples(option_string)
        return list({id(one[0]): one for one in found}.values())

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        options = [word for word in unknown if word.startswith("--")]
        if options:
            wrong = options[0].partition("=")[0]
            near = difflib.get_close_matches(wrong.replace("-", "_"), self._bare_options(), n=1)
            if near:
                meant = self._bare_options()[near[0]]
                self.error(f"unrecognized arguments: {' '.join(unknown)} (did you mean {meant}?)")
        return found, unknown

    def _bare_options(self) -> dict[str, str]:
        """Long options as they are shown, by their names with underscores alone."""
        return {name.replace("-", "_"): name for name in self._shown()}

    def _shown(self) -> Iterator[str]:
        return (name for action in self._actions for name in action.option_strings[:1] if name.startswith("--"))

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, with the verb that seems to be meant, and exit with 2."""
        wrong = re.search(r"invalid choice: '([^']*)'", message)
        near = difflib.get_close_matches(wrong[1], list(self._verbs()), n=1) if wrong else []
        super().error(message + (f" (did you mean {near[0]}?)" if near else ""))
