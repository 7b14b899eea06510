"""``tiger completion``: a script with which a shell completes the commands of ``tiger``."""

from __future__ import annotations

import argparse
from functools import partial

SHELLS = ("bash", "zsh", "tcsh")
# What stands for an argument in the help: whether the shell offers directories, or any files.
_DIRECTORIES = ("RUN_OR_REPO", "RUN_DIR", "DIR", "DATASET")
_FILES = ("FILE", "ITEMS", "CLICKS")


def add_completion_verb(verbs, whole: argparse.ArgumentParser) -> None:
    """``tiger completion``.

    Args:
        whole: the parser of all verbs.
    """
    completion = verbs.add_parser(
        "completion",
        help="print a script that completes these commands in a shell",
        epilog="bash: tiger completion bash > ~/.local/share/bash-completion/completions/tiger",
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(run=partial(run_completion, whole))


def run_completion(whole: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    import shtab

    _offer_paths(whole, shtab.DIRECTORY, shtab.FILE)
    print(shtab.complete(whole, args.shell))


def _offer_paths(parser: argparse.ArgumentParser, directory: dict, file: dict) -> None:
    """Note at each argument of a parser and its verbs which paths a shell may offer."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _offer_paths(verb, directory, file)
        elif action.metavar in _DIRECTORIES:
            action.complete = directory  # type: ignore[attr-defined]
        elif action.metavar in _FILES:
            action.complete = file  # type: ignore[attr-defined]
