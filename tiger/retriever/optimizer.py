"""AdamW for most weights of the T5, Muon for its matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from tiger._moved import old_names

# The value of the paper and of torch.optim.Muon.
MUON_MOMENTUM = 0.95
# Coefficients of the quintic iteration and the size of a step, as in torch.optim.Muon ("match_rms_adamw").
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
ADAMW_STEP_RMS = 0.2


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose parameter groups with ``"muon": True`` are stepped by Muon instead.

    Muon (Jordan et al. 2024; scaled as in Liu et al., arXiv 2502.16982) steps along the momentum with all its singular
    values set to about 1. Matrices of one shape are orthogonalized in one batched product: a T5 here has 64 small
    matrices of two shapes, and a loop over them (``torch.optim.Muon``) leaves a GPU waiting for launches.

    Args:
        groups: parameter groups; those of Muon hold matrices only. ``lr`` means the same in both: the root mean square
            of a step is about ``0.2 * lr``.
        options: as for ``torch.optim.AdamW``.

    Raises:
        ValueError: a Muon group holds a parameter that is not a matrix.
    """

    def __init__(self, groups: Iterable[dict], **options):
        super().__init__(groups, **options)
        for group in self.param_groups:
            if group.get("muon") and any(weight.ndim != 2 for weight in group["params"]):
                raise ValueError("Muon steps matrices: leave vectors and embeddings to the other groups")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step; ``closure`` is passed on to AdamW. Gradients of Muon's matrices are None afterwards.

        A ``GradScaler`` gives a fused optimizer ``found_inf`` and ``grad_scale`` and leaves both to it: where a
        gradient has overflowed, no weight and no momentum moves, and gradients that are still scaled are scaled back.
        """
        found_inf, loss_scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        # The host waits for the device here, as a GradScaler itself does for optimizers that are not fused.
        overflowed = found_inf is not None and bool(found_inf)
        for group in self.param_groups:
            if group.get("muon"):
                self._muon_step(group, overflowed, loss_scale)
        return super().step(closure)

    def _muon_step(self, group: dict, overflowed: bool, loss_scale: torch.Tensor | None) -> None:
        """Step all matrices of a group with a few launches for each shape; a transposed shape counts as the same."""
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if overflowed:
            for weight in weights:
                weight.grad = None  # so that AdamW skips it
            return
        if not weights:
            return
        for weight in weights:
            if not self.state[weight]:
                # AdamW expects a step in every state that it loads.
                self.state[weight].update(step=torch.zeros(()), momentum=torch.zeros_like(weight))
        gradients: list[Any] = [weight.grad for weight in weights]
        if loss_scale is not None:
            torch._foreach_div_(gradients, loss_scale)
        momenta = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MUON_MOMENTUM)
        directions = torch._foreach_lerp(gradients, momenta, MUON_MOMENTUM)
        alike: dict[tuple, list[int]] = {}
        for at, weight in enumerate(weights):
            weight.grad = None  # so that AdamW skips it
            alike.setdefault(tuple(sorted(weight.shape)), []).append(at)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for (short, long), members in alike.items():
            # Wide ones, then tall ones, transposed; lists contiguous, for foreach is slow where strides differ.
            members.sort(key=lambda at: weights[at].shape[0] != short)
            number = sum(weights[at].shape[0] == short for at in members)
            parts = [[directions[at] for at in part] for part in (members[:number], members[number:])]
            stacks = [torch.stack(part).mT if tall else torch.stack(part) for tall, part in enumerate(parts) if part]
            steps = orthogonalize(torch.cat(stacks)).to(weights[0].dtype)
            steps_of = [*steps[:number].unbind(), *steps[number:].mT.contiguous().unbind()]
            scale = group["lr"] * ADAMW_STEP_RMS * long**0.5
            torch._foreach_add_([weights[at] for at in members], steps_of, alpha=-scale)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Orthogonalize matrices approximately, by a Newton-Schulz iteration in bfloat16.

    Args:
        matrices: [n, rows, columns], rows <= columns.

    Returns:
        bfloat16 [n, rows, columns], with singular values between about .7 and 1.2 (except those that were almost 0).
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
