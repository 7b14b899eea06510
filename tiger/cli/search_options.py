"""Flags for :class:`tiger.retriever.search_options.SearchOptions`, with its defaults and help texts."""

from __future__ import annotations

import argparse

from tiger.retriever.search_options import SearchOptions, option_default, option_help
from tiger.utils.errors import DataError

# Of the options with a value. --keep_history is the opposite of exclude_history, --no_memory of memory, and
# --no_bf16 of bf16, for commands that have it; progress bars have no flag. --no_rank is of who recommends.
FLAGS = {"num_beams": "--num_beams", "temperature": "--temperature", "seed": "--seed", "batch_size": "--batch_users"}
_TYPES = {"num_beams": int, "temperature": float, "seed": int, "batch_size": int}


def add_search_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add a flag for each of these options (default: all), ``--keep_history``, ``--no_memory`` and ``--no_rank``."""
    for name in names or FLAGS:
        default = option_default(name)
        shown = "" if default is None else f" (default {default})"
        parser.add_argument(
            FLAGS[name], dest=name, type=_TYPES[name], default=default, metavar="N", help=option_help(name) + shown
        )
    parser.add_argument("--keep_history", action="store_true", help="allow items of the history in the answer")
    parser.add_argument("--no_memory", action="store_true", help="leave the model's memory out: the T5 alone")
    parser.add_argument("--no_rank", action="store_true", help="leave the second stage out: the order of the search")


def search_options(args: argparse.Namespace, at_least: int) -> dict:
    """The options by their names.

    Args:
        at_least: minimum of beams, the number of items wanted; fewer beams are raised to it.

    Raises:
        DataError: a value is out of range; the message names the flag.
    """
    options = {name: getattr(args, name) for name in FLAGS} | {"exclude_history": not args.keep_history}
    options["memory"] = not args.no_memory
    options |= {"rank": False} if args.no_rank else {}
    for name, flag in FLAGS.items():
        try:
            SearchOptions(**{name: options[name]})
        except DataError as error:
            raise DataError(str(error).replace(name, flag, 1)) from error
    return options | {"num_beams": max(args.num_beams, at_least)}
