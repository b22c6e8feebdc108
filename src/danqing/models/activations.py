"""SiLU and tanh-GELU whose bits depend neither on the number of threads nor on the neighbours.

PyTorch's CPU kernels divide a tensor among the threads at any element, and compute what is left
over at the end of a share with scalar code that rounds otherwise than the vector code; so a value
depends on how many threads there are and on how many rows ride along (seen in torch 2.13 with 5, 7
and 12 threads). ``exp`` has no such seam, hence these formulas. The gradients stay torch's own.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

GELU_SCALE = 2.0 * math.sqrt(2.0 / math.pi)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x)."""
    return _SiLU.apply(x) if x.device.type == "cpu" else F.silu(x)


def gelu(x: Tensor) -> Tensor:
    """x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), the tanh approximation of GELU."""
    return _GELU.apply(x) if x.device.type == "cpu" else F.gelu(x, approximate="tanh")


class _SiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return gated(x, x.float())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.ops.aten.silu_backward(grad, ctx.saved_tensors[0])


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        x32 = x.float()
        return gated(x, (x32.square() * 0.044715 + 1.0).mul_(x32).mul_(GELU_SCALE))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.ops.aten.gelu_backward(grad, ctx.saved_tensors[0], approximate="tanh")


def gated(x: Tensor, gate: Tensor) -> Tensor:
    """x sigmoid(gate), in float32."""
    return (x / (gate.neg().exp_().add_(1.0))).to(x.dtype)
