"""Noise levels of a run: the published dynamic schedule, or a plain list.

The arithmetic is in float32, as in FlowMatchEulerDiscreteScheduler, so that the values are equal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from danqing.errors import RequestError

ShiftType = Literal["exponential", "linear"]


@dataclass(frozen=True)
class ScheduleConfig:
    """The published ``scheduler/scheduler_config.json``; the defaults are Qwen-Image's."""

    use_dynamic_shifting: bool = True
    time_shift_type: ShiftType = "exponential"
    base_shift: float = 0.5
    max_shift: float = 0.9
    base_image_seq_len: int = 256
    max_image_seq_len: int = 8192
    shift: float = 1.0
    shift_terminal: float | None = 0.02


def schedule(steps: int, patches: int, config: ScheduleConfig) -> list[float]:
    """``steps`` falling sigmas and a closing 0, for an image of so many patches."""
    sigmas = np.linspace(1.0, 1.0 / steps, steps).astype(np.float32)
    if config.use_dynamic_shifting:
        sigmas = shifted(sigmas, shift_factor(patches, config))
    else:
        sigmas = config.shift * sigmas / (1 + (config.shift - 1) * sigmas)
    # A single step has nothing to stretch; the reference divides 0 by 0 there.
    if config.shift_terminal and steps > 1:
        sigmas = stretched(sigmas, config.shift_terminal)
    return [*sigmas.astype(np.float32).tolist(), 0.0]


def dynamic_shift(patches: int, config: ScheduleConfig) -> float:
    """mu, linear in the number of patches and not clamped outside the two anchors."""
    run = config.max_image_seq_len - config.base_image_seq_len
    slope = (config.max_shift - config.base_shift) / run
    return patches * slope + config.base_shift - slope * config.base_image_seq_len


def shift_factor(patches: int, config: ScheduleConfig) -> float:
    """By how much the odds sigma / (1 - sigma) are moved, for an image of so many patches."""
    if not config.use_dynamic_shifting:
        return config.shift
    mu = dynamic_shift(patches, config)
    return math.exp(mu) if config.time_shift_type == "exponential" else mu


def shifted(sigmas: np.ndarray, factor: float) -> np.ndarray:
    """Move the levels towards the noise; Esser et al. 2024 (arXiv 2403.03206), eq. 23."""
    return np.asarray(factor / (factor + (1 / sigmas - 1)))


def stretched(sigmas: np.ndarray, terminal: float) -> np.ndarray:
    """Stretch the levels so that the last one is ``terminal``."""
    rest = 1 - sigmas
    return np.asarray(1 - rest / (rest[-1] / (1 - terminal)))


def check_sigmas(sigmas: Sequence[float]) -> list[float]:
    """A user's own list: falling from at most 1 to 0; the closing 0 may be left out."""
    try:
        levels = [float(s) for s in sigmas]
    except (TypeError, ValueError, OverflowError):
        raise RequestError(f"sigmas {sigmas!r} must be a list of numbers") from None
    if levels and levels[-1] != 0.0:
        levels.append(0.0)
    falling = all(a > b for a, b in pairwise(levels))
    if len(levels) < 2 or not falling or not 0.0 < levels[0] <= 1.0:
        raise RequestError(
            f"sigmas {list(sigmas)} must fall from at most 1 towards 0, for example 1,0.9,0.75,0.5"
        )
    return levels
