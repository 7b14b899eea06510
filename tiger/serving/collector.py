"""The collector of traces: whether one is wanted, and what makes the spans that go to it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tiger.utils.errors import DataError
from tiger.utils.extras import extras_named

if TYPE_CHECKING:
    from tiger.serving.tracing import Tracing

COLLECTOR_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def tracing_of(wanted: bool | None, environment: Mapping[str, str]) -> Tracing | None:
    """Return what makes spans; None: nobody has asked for them.

    Args:
        wanted: whether spans are made; None: if a variable names a collector.
        environment: the variables.

    Raises:
        DataError: they are wanted, and the packages are missing. Where only a variable asks, that is a warning: it may
            be meant for all programs of a machine.
    """
    named = [name for name in COLLECTOR_VARIABLES if environment.get(name, "").strip()]
    if not (bool(named) if wanted is None else wanted):
        return None
    try:
        with extras_named():
            from tiger.serving.tracing import Tracing

            return Tracing.from_environment()
    except DataError as error:
        if wanted:
            raise
        print(f"warning: {named[0]} is set, but there will be no traces: {error}", file=sys.stderr)
        return None
