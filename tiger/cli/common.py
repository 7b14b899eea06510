"""Shared by the commands: open a recommender, print warnings and errors on one line, read ids."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tiger._moved import old_names
from tiger.utils.errors import DataError


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Print user-fixable errors on one line and exit with 2, after Ctrl-C with 130; others keep their traceback."""
    try:
        yield
    except (DataError, FileExistsError, PermissionError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader has seen enough (`| head`): no message is needed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def load_recommender(name: str, revision: str | None = None, device: str = "cpu"):
    """A recommender from a directory or the Hub; device ``fastest``: whatever accelerator there is, else the CPU."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from tiger.recommender.recommender import TigerRecommender  # seconds to import, not needed for --help

    disable_progress_bar()
    if device == "fastest":
        device = str(torch.accelerator.current_accelerator() or "cpu")
    return TigerRecommender.from_pretrained(name, device, revision=revision)


@contextmanager
def print_warnings() -> Iterator[None]:
    """Print each warning as one line on standard error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            print(f"warning: {warning.message}", file=sys.stderr)


def words(given: Sequence[str]) -> list[str]:
    """Ids from the command line, or for ``-`` from standard input, one per line: an id may contain spaces."""
    if list(given) != ["-"]:
        return list(given)
    return [line.strip() for line in sys.stdin if line.strip()]


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
