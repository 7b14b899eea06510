"""AdamW, with row-wise Adagrad for the embedding table of a click ranker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class RowwiseAdagradAdamW(torch.optim.AdamW):
    """AdamW whose parameter groups with ``"rowwise": True`` are stepped by row-wise Adagrad instead.

    For embedding tables with sparse gradients: only the rows that were read are touched, and each has one number of
    state (Gupta et al. 2014, as recommenders use it), so a table of ten million rows costs 40 MB more.

    Args:
        groups: parameter groups; those with ``rowwise`` hold tables [rows, dimensions] with sparse gradients.
        options: as for ``torch.optim.AdamW``.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step; ``closure`` is passed on to AdamW. Gradients of tables are used up."""
        for group in self.param_groups:
            if group.get("rowwise"):
                for table in group["params"]:
                    self._rowwise_step(group, table)
        return super().step(closure)

    def _rowwise_step(self, group: dict, table: nn.Parameter) -> None:
        if table.grad is None:
            return
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros(())  # AdamW expects one in whatever state it loads
            state["squares"] = torch.zeros(len(table), device=table.device)
        gradient = table.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        state["squares"].index_add_(0, rows, values.square().mean(-1))
        rates = group["lr"] / (state["squares"][rows].sqrt() + group["eps"])
        table.index_add_(0, rows, values * -rates.unsqueeze(-1))
        table.grad = None  # so that AdamW passes it by
