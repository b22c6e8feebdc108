"""Every number that a distillation draws, from (seed, purpose, step, place) alone: a run that was
killed goes on as if it had not been."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from danqing.training.distill.trajectories import Wish

# Purposes, so that none is drawn twice for two.
ORDER, IMITATE, MATCH, FAKE, WISH, PUPIL, NOISE = range(7)
SEEDS = 2**62


@dataclass(frozen=True)
class Draws:
    seed: int

    def rng(self, purpose: int, step: int, place: int = 0) -> np.random.Generator:
        return np.random.default_rng((self.seed, purpose, step, place))

    def wishes(
        self, prompts: Sequence[str], sizes: Sequence[tuple[int, int]], count: int, first: int = 0
    ) -> list[Wish]:
        """The wishes from number ``first`` on: every prompt as often as any other, with new noise
        each time."""
        found = []
        for number in range(first, first + count):
            turn, place = divmod(number, len(prompts))
            rng = self.rng(WISH, number)
            prompt = prompts[order(self.seed, WISH, turn, len(prompts))[place]]
            size = sizes[int(rng.integers(len(sizes)))]
            found.append(Wish(prompt, int(rng.integers(SEEDS)), size))
        return found

    def numbers(self, purpose: int, step: int, batch: int, count: int) -> list[int]:
        """Which of ``count`` things are in a step: turns in changing order, cut into batches."""
        found = []
        for position in range(step * batch, (step + 1) * batch):
            turn, place = divmod(position, count)
            found.append(order(self.seed, purpose, turn, count)[place])
        return found


@lru_cache(8)
def order(seed: int, purpose: int, turn: int, count: int) -> list[int]:
    """A permutation of so many things, another one in every turn."""
    found: list[int] = (
        np.random.default_rng((seed, ORDER, purpose, turn)).permutation(count).tolist()
    )
    return found


def normal(rng: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), dtype=np.float32))
