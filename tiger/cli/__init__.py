"""The command ``tiger``."""

import os

# Read when torch is loaded: threads that wait for each other sleep, and leave a busy machine to those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from tiger.cli.common import friendly_errors
from tiger.cli.main import main

__all__ = ["friendly_errors", "main"]
