"""Flow matching along straight lines, as in Qwen-Image; shared by sampling and training.

x_sigma = (1 - sigma) clean + sigma noise, so the velocity dx/dsigma is noise - clean.
Lipman et al. 2022 (arXiv 2210.02747), Liu et al. 2022 (arXiv 2209.03003).
"""

from torch import Tensor


def interpolate(clean: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """The noisy sample at ``sigma`` in [0, 1]; 1 is pure noise."""
    return (1 - sigma) * clean + sigma * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """What the network predicts."""
    return noise - clean


def denoised(sample: Tensor, sigma: Tensor | float, velocity: Tensor) -> Tensor:
    """The clean sample that a velocity points to."""
    return sample - sigma * velocity


def euler(sample: Tensor, velocity: Tensor, sigma: float, next_sigma: float) -> Tensor:
    """One Euler step from ``sigma`` to ``next_sigma``, in the sample's dtype (float32)."""
    return sample + (next_sigma - sigma) * velocity.to(sample.dtype)
