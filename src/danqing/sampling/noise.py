"""The starting noise: one CPU generator an image, float32, whatever the device and the dtype."""

import torch
from torch import Tensor


def draw(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise; equal to the reference's draw from the same CPU generator."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
