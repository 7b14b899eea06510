"""Shared by the commands: options, recommenders, warnings and errors on one line, ids."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from tiger._moved import old_names
from tiger.utils.disk import as_disk_error
from tiger.utils.errors import DataError

MODEL_HELP = "a run's folder such as runs/demo, owner/name on the Hub, or demo"
REVISION_HELP = "branch, tag or commit on the Hub"


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Print user-fixable errors on one line and exit with 2, after Ctrl-C with 130; others keep their traceback.

    A disk that takes no more is one of these, whichever library met it.
    """
    try:
        yield
    except (DataError, FileExistsError, PermissionError) as error:
        _stop(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader has seen enough (`| head`): no message is needed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        full = as_disk_error(error)
        if full is None:
            raise
        _stop(full)


def _stop(error: Exception) -> NoReturn:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)


def load_recommender(name: str, revision: str | None = None, device: str = "cpu"):
    """A recommender from a directory or the Hub; device ``fastest``: whatever accelerator there is, else the CPU."""
    from transformers.utils.logging import disable_progress_bar

    from tiger.recommender.recommender import TigerRecommender  # seconds to import, not needed for --help

    disable_progress_bar()
    device = usable_device(device)
    return TigerRecommender.from_pretrained(name, device, revision=revision)


def usable_device(name: str) -> str:
    """The device by its name in torch, once it is known to be there; ``fastest``: an accelerator, else the CPU.

    Raises:
        DataError: there is none of this name.
    """
    import torch

    from tiger.utils import devices

    try:
        device = devices.fastest() if name == "fastest" else torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        named = os.environ.get(devices.DEVICE_VARIABLE, name) if name == "fastest" else name
        raise DataError(f"there is no device {named!r} here ({str(error).splitlines()[0]}). Give cpu.") from error
    return str(device)


def add_device_option(parser: argparse.ArgumentParser, default: str | None, shown: str) -> None:
    """``--device``."""
    parser.add_argument("--device", default=default, help=f"where the model runs: cpu, cuda, cuda:1 (default {shown})")


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
    return [line.strip() for line in input_lines() if line.strip()]


def input_lines() -> Iterator[str]:
    """Lines of standard input, without the byte order mark that some programs begin with.

    Raises:
        DataError: they are not UTF-8.
    """
    try:
        for number, line in enumerate(sys.stdin):
            yield line.removeprefix("\ufeff") if number == 0 else line
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8 ({error.reason}). Convert it.") from error


def spellings(option: str) -> list[str]:
    """The names of an option of several words, ``--a-b`` and ``--a_b``: as given first, so that help shows it so."""
    bare = option.removeprefix("--")
    return list(dict.fromkeys([option, "--" + bare.replace("_", "-"), "--" + bare.replace("-", "_")]))


def add_model_argument(parser: argparse.ArgumentParser, what: str = MODEL_HELP) -> None:
    """The recommender to read, from this machine or the Hub, and ``--revision``."""
    parser.add_argument("model", metavar="RUN_OR_REPO", help=what)
    parser.add_argument("--revision", help=REVISION_HELP)


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
