"""Devices without numbers of double precision."""

from __future__ import annotations

import torch

# Apple's GPUs compute in float32 and less; torch raises an error for a float64 tensor there.
WITHOUT_FLOAT64 = ("mps",)


def widest_float(device: str | torch.device) -> torch.dtype:
    """The floating-point type to sum in on a device: float64, or float32 where there is none."""
    return torch.float32 if torch.device(device).type in WITHOUT_FLOAT64 else torch.float64
