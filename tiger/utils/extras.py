"""Optional dependencies: checks that name the missing extra."""

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
    "otel": ("opentelemetry",),
    "ray": ("ray",),
}


def require_extra(extra: str) -> None:
    """Raise an error now if a package is missing that is needed later, perhaps after hours.

    Raises:
        DataError: a package of the extra is not installed.
    """
    for package in EXTRAS[extra]:
        if find_spec(package) is None:
            raise _missing(package, extra)


@contextmanager
def extras_named() -> Iterator[None]:
    """Context manager: turn the error for a missing package into one that names its extra.

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
