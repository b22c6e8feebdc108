"""What is watched while a student learns, and when it is sent back.

Distribution matching has no loss that falls: its two scores chase each other. So at every
evaluation the student paints held-out prompts from fixed noise, and its latents are compared with
the teacher's. If their channels have drifted, or the fake score no longer knows them, the weights
go back to the last evaluation where that was not so, at half the rate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danqing.sampling import flow
from danqing.training.distill import losses
from danqing.training.distill.draws import normal
from danqing.training.distill.roles import FAKE, TEACHER
from danqing.training.distill.student import Student
from danqing.training.distill.trajectories import Wish, query

MOST_ROLLBACKS = 3
MOST_FAKE = 1.05  # of the fake score's loss over the teacher's
LEVELS = (0.3, 0.6, 0.9)  # that the two are compared at


@dataclass(frozen=True)
class Figures:
    """The student against the teacher, over held-out prompts from the same noise.

    ``error`` is the mean square of their difference, ``cosine`` the mean of their latents',
    ``drift`` how far means and deviations of channels have moved, in the teacher's deviations.
    ``fake`` is the fake score's loss on the student's pictures over the teacher's: a fake score
    that knows them has less than 1.
    """

    error: float
    cosine: float
    drift: float
    fake: float


@torch.no_grad()
def measure(
    student: Student, wishes: Sequence[Wish], teacher: Sequence[Tensor], batch: int
) -> Figures:
    """``teacher``: the final states of the same wishes."""
    painted: list[Tensor] = []
    found: list[tuple[float, float]] = []
    for start in range(0, len(wishes), batch):
        own = wishes[start : start + batch]
        pictures = student.pictures(own)
        painted += pictures
        found += scores(student, own, pictures)
    pairs = list(zip(painted, teacher, strict=True))
    error = sum(float((own - their).square().mean()) for own, their in pairs) / len(pairs)
    cosine = sum(losses.cosine(own, their) for own, their in pairs) / len(pairs)
    fake, plain = (sum(side) for side in zip(*found, strict=True))
    return Figures(error, cosine, losses.drift(painted, teacher), fake / plain)


def scores(
    student: Student, wishes: Sequence[Wish], pictures: Sequence[Tensor]
) -> list[tuple[float, float]]:
    """Losses of fake score and teacher on the student's pictures, always at the same noise."""
    queries, noises = [], []
    for i, (wish, clean) in enumerate(zip(wishes, pictures, strict=True)):
        sigma, noise = LEVELS[i % len(LEVELS)], normal(np.random.default_rng(wish.seed), clean)
        state = flow.interpolate(clean, noise, sigma)
        queries += [
            query(role, state, sigma, wish, student.texts, student.unit) for role in (FAKE, TEACHER)
        ]
        noises.append(noise)
    answers = [velocity.cpu() for velocity in student.roles.ask(queries)]
    fake, plain = (
        [
            float(losses.fake_loss(v, clean, noise))
            for v, clean, noise in zip(answers[role::2], pictures, noises, strict=True)
        ]
        for role in (0, 1)
    )
    return list(zip(fake, plain, strict=True))


@dataclass
class Guard:
    """The last sound weights of student and fake score, how often they were needed, and whether
    they are those in use again, no step having been made since."""

    limit: float
    good: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    drift: float = 0.0  # of the good ones
    rollbacks: int = 0
    back: bool = False

    @property
    def factor(self) -> float:
        """Of the learning rates."""
        return 0.5**self.rollbacks

    @property
    def tired(self) -> bool:
        return self.rollbacks >= MOST_ROLLBACKS

    def sound(self, figures: Figures) -> bool:
        """Not further off than the limit, or than it was; and the fake score keeps up: one that
        knows the student's pictures less than the teacher does leads nowhere."""
        near = figures.drift <= max(self.limit, self.drift)
        return math.isfinite(figures.error) and near and figures.fake <= MOST_FAKE

    def keep(self, step: int, figures: Figures, weights: Mapping[str, Tensor]) -> None:
        self.step, self.drift = step, figures.drift
        self.good = {name: tensor.detach().clone() for name, tensor in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        return vars(self).copy()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
