"""The command ``tiger``."""

from tiger.cli.common import friendly_errors
from tiger.cli.main import main

__all__ = ["friendly_errors", "main"]
