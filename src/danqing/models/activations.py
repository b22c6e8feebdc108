"""SiLU and tanh-GELU whose bits depend neither on the number of threads nor on the neighbours.

PyTorch's CPU kernels divide a tensor among the threads at any element, and compute what is left
over at the end of a share with scalar code that rounds otherwise than the vector code; so a value
depends on how many threads there are and on how many rows ride along (seen in torch 2.13 with 5, 7
and 12 threads). ``exp`` has no such seam, hence these formulas for inference on a CPU. Training
promises no equality across threads and takes torch's fused kernels, which are twice as fast.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

GELU_SCALE = 2.0 * math.sqrt(2.0 / math.pi)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x)."""
    return F.silu(x) if fused(x) else gated(x, x.float())


def gelu(x: Tensor) -> Tensor:
    """x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), the tanh approximation of GELU."""
    if fused(x):
        return F.gelu(x, approximate="tanh")
    x32 = x.float()
    return gated(x, (x32.square() * 0.044715 + 1.0).mul_(x32).mul_(GELU_SCALE))


def fused(x: Tensor) -> bool:
    return x.device.type != "cpu" or (torch.is_grad_enabled() and x.requires_grad)


def gated(x: Tensor, gate: Tensor) -> Tensor:
    """x sigmoid(gate), in float32."""
    return (x / (gate.neg().exp_().add_(1.0))).to(x.dtype)
