"""The formulas of distillation: what a few-step student learns from a slow, guided teacher.

x_sigma = (1 - sigma) clean + sigma noise; a network's velocity v points to the clean sample
x_sigma - sigma v (``flow.denoised``). Everything here works on one sample of any shape, and knows
no network. Losses are means over its values.

Trajectory imitation is progressive distillation (Salimans and Ho 2022, arXiv 2202.00512) over whole
segments of a stored trajectory. Distribution matching is Yin et al. 2023 (arXiv 2311.18828), on the
student's own deterministic trajectory as in Luo et al. 2025 (arXiv 2503.06674), with guidance taken
apart as in Liu et al. 2025 (arXiv 2511.22677).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_SCALE = 0.1


def segment_velocity(state: Tensor, target: Tensor, sigma: float, next_sigma: float) -> Tensor:
    """The velocity whose Euler step leads from a state to the teacher's state at the next node."""
    return (target - state) / (next_sigma - sigma)


def imitation_loss(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).square().mean()


def fake_loss(found: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Flow matching on the student's own pictures: the fake score learns what they are like."""
    return (found - (noise - clean)).square().mean()


def matching(teacher: Tensor, fake: Tensor) -> Tensor:
    """From the student's pictures to the teacher's: the difference of their scores, told as clean
    samples. Zero where both distributions are the same."""
    return teacher - fake


def guiding(guided: Tensor, teacher: Tensor) -> Tensor:
    """What guidance adds to the teacher, told as clean samples. Matching alone leads to the
    unguided pictures."""
    return guided - teacher


def in_units(direction: Tensor, teacher: Tensor, own: Tensor) -> Tensor:
    """The direction, divided by how far the teacher's clean sample is from the student's: so no
    noise level outweighs the others. From ``LEAST_SCALE`` down it is divided by no less."""
    return direction / (teacher - own).abs().mean().clamp(min=LEAST_SCALE)


def push(own: Tensor, direction: Tensor) -> Tensor:
    """A loss that moves the student's clean sample along a direction: half its squared distance to
    ``own + direction``, which is held fixed."""
    return 0.5 * (own - (own + direction).detach()).square().mean()


# ---- how the student's pictures differ from the teacher's -------------------------------------


def drift(own: Sequence[Tensor], teacher: Sequence[Tensor]) -> float:
    """How far means and deviations of the channels [.., C] have moved, in the teacher's deviations;
    the largest of all."""
    (mean, std), (their_mean, their_std) = moments(own), moments(teacher)
    moved = torch.cat([(mean - their_mean) / their_std, std / their_std - 1])
    return float(moved.abs().max())


def moments(samples: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    rows = torch.cat([sample.flatten(0, -2) for sample in samples])
    return rows.mean(dim=0), rows.std(dim=0)


def cosine(own: Tensor, teacher: Tensor) -> float:
    """Of two samples as vectors; 1 is the same picture."""
    return float(torch.nn.functional.cosine_similarity(own.flatten(), teacher.flatten(), dim=0))
