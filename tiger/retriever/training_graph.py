"""Training steps as CUDA graphs: one launch in place of the thousand of a small T5's forward and backward.

A graph replays fixed work on fixed addresses, so there is one for each shape of batch. :class:`LengthBatchSampler`
gives the same shapes in every epoch: they are recorded in the first, at about the price of an eager step each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class _Graph:
    graph: torch.cuda.CUDAGraph
    inputs: dict[str, torch.Tensor]
    loss: torch.Tensor
    gradients: list[tuple[nn.Parameter, torch.Tensor]]


class TrainingGraphs:
    """Forward and backward of a model, recorded once per shape of batch and replayed.

    Dropout draws anew in every replay. Gradients are written to ``parameter.grad``, in place of what was there: no
    accumulation. Memory is that of the largest batch, since the graphs never run at the same time and share it.

    Args:
        model: on a CUDA device; its parameters must not move in memory. An optimizer steps them in place.
        loss_of: the loss of a batch's tensors, without waiting for the device. Autocast inside must not cache casts.
        eager_steps: steps before the first recording, so that libraries have allocated what they keep.
    """

    def __init__(self, model: nn.Module, loss_of: Callable[..., torch.Tensor], eager_steps: int = 3):
        self._model, self._loss_of, self._eager_steps = model, loss_of, eager_steps
        self._graphs: dict[tuple, _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def __len__(self) -> int:
        return len(self._graphs)

    def step(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a batch, float [], on the device; the next step overwrites it. Sets all gradients.

        Args:
            inputs: on the device; copied.
        """
        if self._eager_steps > 0:
            self._eager_steps -= 1
            self._clear()
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                loss = self._loss_of(**inputs)
                loss.backward()
            torch.cuda.current_stream().wait_stream(self._stream)
            return loss.detach()
        key = tuple((name, tuple(values.shape), values.dtype) for name, values in sorted(inputs.items()))
        recorded = self._graphs.get(key)
        if recorded is None:
            recorded = self._graphs[key] = self._record(inputs)
        for name, values in inputs.items():
            recorded.inputs[name].copy_(values, non_blocking=True)
        recorded.graph.replay()
        for parameter, gradient in recorded.gradients:
            parameter.grad = gradient
        return recorded.loss

    def _record(self, inputs: dict[str, torch.Tensor]) -> _Graph:
        kept = {name: values.clone() for name, values in inputs.items()}
        self._clear()  # so that backward makes gradients of its own, which every replay fills anew
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            loss = self._loss_of(**kept)
            loss.backward()
        gradients = [(p, p.grad) for p in self._model.parameters() if p.grad is not None]
        return _Graph(graph, kept, loss.detach(), gradients)

    def _clear(self) -> None:
        for parameter in self._model.parameters():
            parameter.grad = None
