"""Muon in float32: momentum, orthogonalised by Newton-Schulz, for matrices and convolution kernels.

Keller Jordan et al. 2024; the scale of Moonshot's Moonlight (arXiv 2502.16982) makes its learning
rate comparable to AdamW's. torch.optim.Muon iterates in bfloat16, which is ten times slower than
float32 on a CPU without bfloat16 units (19 against 150 GFLOP/s on the machine of LOG.md).
"""

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
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, parameter.grad, group)

    def _step_one(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(grad, 1 - group["momentum"])
        update = grad.lerp(state["momentum"], group["momentum"])
        direction = orthogonalise(update.flatten(1), int(group["iterations"]))
        rate = group["lr"] * 0.2 * max(direction.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction.view_as(parameter), alpha=-rate)


def orthogonalise(matrix_IO: Tensor, iterations: int) -> Tensor:
    """Roughly U V^T of the singular value decomposition.

    Each iteration multiplies by a polynomial p of the Gram matrix, and the next Gram matrix is
    p G p; so all of it happens on the small square, and the matrix itself is touched twice.
    """
    a, b, c = COEFFICIENTS
    tall = matrix_IO.shape[0] > matrix_IO.shape[1]
    x = matrix_IO.T if tall else matrix_IO
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    product = None
    for left in reversed(range(iterations)):
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        product = polynomial if product is None else polynomial @ product
        if left:
            gram = polynomial @ gram @ polynomial
    x = x if product is None else product @ x
    return x.T if tall else x
