"""The loss on pictures that are never learnt from, at fixed noise levels with fixed noise.

The training loss jumps with every noise level drawn and says little; this one is the same sum at
every evaluation, so that its differences mean something.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from danqing.training.loss import Example, image_losses, lay_out, velocities
from danqing.training.subject import Subject

SIGMAS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95)
RESAMPLES = 1000
PATCHES_AT_ONCE = 4096  # of a pack; one picture of 1024x1024 pixels


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
        packs = in_packs(own)
        rows.append(torch.cat([pack_losses(subject, pack, on) for pack in packs]))
    return torch.stack(rows).double()


def pack_losses(subject: Subject, pack: Sequence[Example], on: bool) -> Tensor:
    layout = lay_out(pack)
    with subject.ride(layout, [on] * len(pack)):
        found = velocities(subject.network, pack, layout)
    return image_losses(found, [e.velocity for e in pack], pack).cpu()


def levels_at_once(patches: int) -> int:
    return max(1, PATCHES_AT_ONCE // patches)


def in_packs(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """A picture's levels, as many at once as a few thousand patches allow."""
    count = levels_at_once(len(examples[0].clean))
    for start in range(0, len(examples), count):
        yield examples[start : start + count]


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
