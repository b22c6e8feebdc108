"""Frequencies of rotary positions, shared by the transformer and the text encoder."""

import torch
from torch import Tensor


def inverse_frequencies(dim: int, theta: float) -> Tensor:
    """[dim / 2] float32: 1 / theta^(2 j / dim), rounded as the reference implementations do."""
    return 1.0 / torch.pow(theta, torch.arange(0, dim, 2).float() / dim)
