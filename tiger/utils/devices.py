"""Devices: what an accelerator wants otherwise than a CPU, decided in one place.

Reading a value from an accelerator makes the host wait for all that is queued there (a host synchronization), so code
that asks tensors questions asks :func:`is_host` first. Tests replace that function to run an accelerator's path on a
CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

# Histories decoded together. CPU: a batch's tensors should stay small. GPU: on an H200, 50 beams and the paper's T5,
# 1,024 users took 2.6 times as long as one, and 4,096 gave 11% more users a second for four times the memory.
HOST_BATCH, ACCELERATOR_BATCH, ACCELERATOR_BEAMS = 64, 1024, 1024 * 50


DEVICE_VARIABLE = "TIGER_DEVICE"
# Apple's GPUs compute in float32 and less; torch raises an error for a float64 tensor there.
WITHOUT_FLOAT64 = ("mps",)


def fastest() -> torch.device:
    """The device that ``$TIGER_DEVICE`` names, else the machine's accelerator, else the CPU."""
    named = os.environ.get(DEVICE_VARIABLE, "").strip()
    return torch.device(named) if named else torch.accelerator.current_accelerator() or torch.device("cpu")


@contextmanager
def using_device(name: str | None) -> Iterator[None]:
    """Let :func:`fastest` give this device, here and in processes started meanwhile; None: as it is."""
    before = os.environ.get(DEVICE_VARIABLE)
    if name is not None:
        os.environ[DEVICE_VARIABLE] = name
    try:
        yield
    finally:
        if name is not None:
            os.environ.pop(DEVICE_VARIABLE)
            if before is not None:
                os.environ[DEVICE_VARIABLE] = before


def is_host(device: torch.device) -> bool:
    """Whether tensors of a device lie in the host's memory: to read their values waits for nothing."""
    return device.type == "cpu"


def widest_float(device: str | torch.device) -> torch.dtype:
    """The floating-point type to sum in on a device: float64, or float32 where there is none."""
    return torch.float32 if torch.device(device).type in WITHOUT_FLOAT64 else torch.float64


def default_batch_size(device: torch.device, num_beams: int) -> int:
    """Histories that are decoded together where nobody says how many; fewer where they have many beams."""
    if is_host(device):
        return HOST_BATCH
    return max(1, min(ACCELERATOR_BATCH, ACCELERATOR_BEAMS // num_beams))


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of matrix products under autocast; None: it is off, or the device has none."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which every product is of its operands' dtype."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@contextmanager
def products_in(device: torch.device, bf16: bool | None) -> Iterator[None]:
    """Compute matrix products in bfloat16 or in float32.

    Args:
        bf16: True or False; None: as autocast says where it is on, else bfloat16 on an NVIDIA or AMD GPU that has it,
            and float32 everywhere else.
    """
    if bf16 is None and (autocast_dtype(device) is not None or not has_fast_bf16(device)):
        yield
        return
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16 is not False):
        yield


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is the better choice on a device without further question."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


class HostCopy:
    """Copies of tensors in the host's memory, on their way while the host goes on.

    Args:
        tensors: on any device; on a CPU they are taken as they are.
    """

    def __init__(self, *tensors: torch.Tensor):
        self._event: torch.cuda.Event | None = None
        is_cuda = tensors[0].device.type == "cuda"
        # To the host, a copy without waiting is safe only where an event says when it has arrived.
        self._copies = [tensor.to("cpu", non_blocking=is_cuda) for tensor in tensors]
        if is_cuda:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensors[0].device))

    def wait(self) -> list[torch.Tensor]:
        """The copies, once they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._copies


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on a device; if it is in pinned memory, the host goes on meanwhile."""
    return tensor.to(device, non_blocking=tensor.is_pinned() if device.type == "cuda" else False)


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor in pinned memory where the device is a GPU that copies from there by itself."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
