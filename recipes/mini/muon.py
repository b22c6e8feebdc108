"""Muon in float32: momentum, orthogonalised by Newton-Schulz, for the matrices of the blocks.

Keller Jordan et al. 2024; the scale of Moonshot's Moonlight (arXiv 2502.16982) makes its learning
rate comparable to AdamW's. torch.optim.Muon iterates in bfloat16, which is ten times slower than
float32 on a CPU without bfloat16 units (19 against 150 GFLOP/s on the machine of LOG.md), and one
matrix at a time; here equal shapes are stacked.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """For 2-D parameters only; a matrix of fused parts is treated as one."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
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
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step_equal(parameters, group)

    def _step_equal(self, parameters: list[Tensor], group: dict[str, float]) -> None:
        updates = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            grad = cast(Tensor, parameter.grad)
            state["momentum"].lerp_(grad, 1 - group["momentum"])
            updates.append(grad.lerp(state["momentum"], group["momentum"]))
        directions = orthogonalise(torch.stack(updates), int(group["iterations"]))
        rate = group["lr"]
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(direction, alpha=-rate * 0.2 * max(parameter.shape) ** 0.5)


def orthogonalise(matrices_BIO: Tensor, iterations: int) -> Tensor:
    """Roughly U V^T of each matrix's singular value decomposition."""
    a, b, c = COEFFICIENTS
    tall = matrices_BIO.shape[-2] > matrices_BIO.shape[-1]
    x = matrices_BIO.mT if tall else matrices_BIO
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return x.mT if tall else x
