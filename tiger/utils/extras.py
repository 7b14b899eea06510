"""Packages that only an extra of the installation brings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from tiger.utils.errors import DataError

# As pyproject.toml has them; modules where they are named otherwise than their packages.
EXTRAS = {
    "train": ("accelerate", "datasets", "evaluate", "matplotlib", "tensorboard"),
    "serve": ("fastapi", "prometheus_client", "uvicorn"),
    "app": ("gradio",),
}


def require_extra(extra: str) -> None:
    """Refuse to begin what would end, hours later perhaps, at a package that is missing.

    Raises:
        DataError: a package of the extra is not installed.
    """
    for package in EXTRAS[extra]:
        if find_spec(package) is None:
            raise _missing(package, extra)


@contextmanager
def extras_named() -> Iterator[None]:
    """Say which extra to install where a package of it is missing.

    Raises:
        DataError: the block imports what an extra would bring.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        for extra, packages in EXTRAS.items():
            if package in packages:
                raise _missing(package, extra) from error
        raise


def _missing(package: str, extra: str) -> DataError:
    return DataError(f"{package} is missing: pip install 'tiger-recommender[{extra}]', or '.[{extra}]' in a checkout.")
