"""Muon in float32: momentum, orthogonalised by Newton-Schulz, for matrices and convolution kernels.

Keller Jordan et al. 2024; the scale of Moonshot's Moonlight (arXiv 2502.16982) makes its learning
rate comparable to AdamW's. torch.optim.Muon iterates in bfloat16, which is ten times slower than
float32 on a CPU without bfloat16 units (19 against 150 GFLOP/s on the machine of LOG.md).
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """For matrices and kernels; fused parts are treated as one matrix, a kernel as [out, in]."""

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        iterations: int = 5,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "iterations": iterations,
        }
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            updates = [self._update(p, p.grad, group["momentum"]) for p in moved]
            # Matrices of a shape together: many small products at once keep all cores busy.
            alike = defaultdict(list)
            for parameter, update in zip(moved, updates, strict=True):
                alike[update.shape].append((parameter, update))
            for pairs in alike.values():
                stack = torch.stack([update for _, update in pairs])
                directions = orthogonalise(stack, int(group["iterations"]))
                for (parameter, _), direction in zip(pairs, directions, strict=True):
                    self._move(parameter, direction, group)

    def _update(self, parameter: Tensor, grad: Tensor, momentum: float) -> Tensor:
        """Nesterov's, as a matrix."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(grad, 1 - momentum)
        return grad.lerp(state["momentum"], momentum).flatten(1)

    def _move(self, parameter: Tensor, direction: Tensor, group: dict[str, Any]) -> None:
        rate = group["lr"] * 0.2 * max(direction.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction.view_as(parameter), alpha=-rate)


def orthogonalise(matrices_NIO: Tensor, iterations: int) -> Tensor:
    """Roughly U V^T of each singular value decomposition.

    Each iteration multiplies by a polynomial p of the Gram matrix, and the next Gram matrix is
    p G p; so all of it happens on the small squares, and the matrices themselves are touched twice.
    """
    a, b, c = COEFFICIENTS
    tall = matrices_NIO.shape[-2] > matrices_NIO.shape[-1]
    x = matrices_NIO.mT if tall else matrices_NIO
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram = x @ x.mT
    product = None
    for left in reversed(range(iterations)):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial if product is None else polynomial @ product
        if left:
            gram = polynomial @ gram @ polynomial
    x = x if product is None else product @ x
    return x.mT if tall else x
