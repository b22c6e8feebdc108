"""What is watched while a student learns, and when it is sent back.

Distribution matching has no loss that falls: its two scores chase each other. So at every
evaluation the student paints held-out prompts from fixed noise, and its latents are compared with
the teacher's. If their channels have drifted, the weights go back to the last evaluation where they
had not, at half the rate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from danqing.training.distill import losses
from danqing.training.distill.student import Student
from danqing.training.distill.trajectories import Wish

MOST_ROLLBACKS = 3


@dataclass(frozen=True)
class Figures:
    """The student against the teacher, over held-out prompts from the same noise.

    ``error`` is the mean square of their difference, ``cosine`` the mean of their latents',
    ``drift`` how far means and deviations of channels have moved, in the teacher's deviations.
    """

    error: float
    cosine: float
    drift: float


@torch.no_grad()
def measure(
    student: Student, wishes: Sequence[Wish], teacher: Sequence[Tensor], batch: int
) -> Figures:
    """``teacher``: the final states of the same wishes."""
    painted: list[Tensor] = []
    for start in range(0, len(wishes), batch):
        painted += student.pictures(wishes[start : start + batch])
    pairs = list(zip(painted, teacher, strict=True))
    error = sum(float((own - their).square().mean()) for own, their in pairs) / len(pairs)
    cosine = sum(losses.cosine(own, their) for own, their in pairs) / len(pairs)
    return Figures(error, cosine, losses.drift(painted, teacher))


@dataclass
class Guard:
    """The last sound weights of student and fake score, and how often they were needed."""

    limit: float
    good: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    drift: float = 0.0  # of the good ones
    rollbacks: int = 0

    @property
    def factor(self) -> float:
        """Of the learning rates."""
        return 0.5**self.rollbacks

    @property
    def tired(self) -> bool:
        return self.rollbacks >= MOST_ROLLBACKS

    def sound(self, figures: Figures) -> bool:
        """Not further off than the limit, or than it was."""
        return math.isfinite(figures.error) and figures.drift <= max(self.limit, self.drift)

    def keep(self, step: int, figures: Figures, weights: Mapping[str, Tensor]) -> None:
        self.step, self.drift = step, figures.drift
        self.good = {name: tensor.detach().clone() for name, tensor in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        return vars(self).copy()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
