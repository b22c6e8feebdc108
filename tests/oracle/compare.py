"""How far two tensors are apart, and the limits that the oracle tests hold to."""

import torch
from torch import Tensor

TENSORS = 1e-5  # features, velocities, means, pixels: float32 on a CPU
PICTURES = 1e-4  # a whole pipeline, on pixels in [0, 1]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference, relative to the largest value where that is above 1."""
    assert ours.shape == theirs.shape, f"{list(ours.shape)} is not {list(theirs.shape)}"
    scale = max(1.0, theirs.abs().max().item())
    return (ours.double() - theirs.double()).abs().max().item() / scale


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = TENSORS) -> None:
    assert torch.isfinite(theirs).all(), "the oracle's own result is not finite"
    found = difference(ours, theirs)
    assert found <= tolerance, f"differs by {found:.2e}, more than {tolerance:.0e}"


def uniform_in(low: float, high: float, shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.empty(shape).uniform_(low, high, generator=torch.Generator().manual_seed(seed))


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
