"""The loss on pictures that are never learnt from, at fixed noise levels with fixed noise.

The training loss jumps with every noise level drawn and says little; this one is the same sum at
every evaluation, so that its differences mean something.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from danqing.training.loss import Example, image_losses, lay_out, velocities
from danqing.training.subject import Subject

SIGMAS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95)
RESAMPLES = 1000


@dataclass(frozen=True)
class Measured:
    """The held-out loss, and a 95 % band of it.

    ``change`` is against the base, picture by picture: below 0 is better than without training.
    """

    loss: float
    low: float
    high: float
    change: float
    change_low: float
    change_high: float
    by_sigma: tuple[float, ...]


@torch.no_grad()
def held_out_losses(subject: Subject, examples: Sequence[Sequence[Example]], on: bool) -> Tensor:
    """The loss of each picture at each level [pictures, levels]."""
    rows = []
    for own in examples:
        layout = lay_out(own)
        with subject.ride(layout, [on] * len(own)):
            found = velocities(subject.network, own, layout)
        rows.append(image_losses(found, [e.velocity for e in own], own).cpu())
    return torch.stack(rows).double()


def measured(found: Tensor, by_base: Tensor) -> Measured:
    losses, base = found.numpy(), by_base.numpy()
    low, high = band(losses.mean(axis=1))
    change = (losses - base).mean(axis=1)
    change_low, change_high = band(change)
    return Measured(
        loss=float(losses.mean()),
        low=low,
        high=high,
        change=float(change.mean()),
        change_low=change_low,
        change_high=change_high,
        by_sigma=tuple(float(x) for x in losses.mean(axis=0)),
    )


def band(values: np.ndarray) -> tuple[float, float]:
    """Holds 95 % of the means of pictures drawn anew from these (bootstrap, always the same).

    NaN for a single picture, which says nothing about others.
    """
    if len(values) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
