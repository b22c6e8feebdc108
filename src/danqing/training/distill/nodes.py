"""Where a few-step student should stop: the best nodes among those of the teacher's schedule.

A student's step replaces a segment of the teacher's trajectory. What it has to learn there is the
error of a single Euler step with the teacher's own velocity; dynamic programming finds the nodes
for which these errors are least in all, from a few stored trajectories.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.errors import TrainingError

Costs = NDArray[np.float64]  # [N, N]: of the segment from node i to node j


def best_nodes(costs: Costs, sigmas: Sequence[float], steps: int) -> tuple[float, ...]:
    """The ``steps`` nodes without the closing 0, all of them among ``sigmas``.

    Args:
        costs: of every segment.
        sigmas: of the teacher's schedule, from 1 down to 0.
        steps: of the student.

    Raises:
        TrainingError: the teacher has fewer steps than the student is to have.
    """
    if not 1 <= steps < len(sigmas):
        raise TrainingError(
            f"steps {steps} must be from 1 to the teacher's {len(sigmas) - 1}; "
            "give the teacher more steps"
        )
    return tuple(sigmas[i] for i in cheapest_path(costs, steps)[:-1])


def mean_costs(trajectories: Iterable[Sequence[Tensor]], sigmas: Sequence[float]) -> Costs:
    """Over trajectories, each with its states at every sigma, of any shape."""
    found: Costs = np.mean([segment_costs(states, sigmas) for states in trajectories], axis=0)
    return found


def segment_costs(states: Sequence[Tensor], sigmas: Sequence[float]) -> Costs:
    """Mean square of what a single Euler step from each node misses each later node by."""
    points = torch.stack([state.flatten().double() for state in states])
    levels = torch.tensor(sigmas, dtype=torch.float64)
    steps = levels.diff()
    velocities = points.diff(dim=0) / steps[:, None]
    costs = np.zeros((len(sigmas), len(sigmas)))
    for i, velocity in enumerate(velocities):
        reached = points[i] + (levels[i + 1 :, None] - levels[i]) * velocity
        costs[i, i + 1 :] = (points[i + 1 :] - reached).square().mean(dim=1).numpy()
    return costs


def cheapest_path(costs: Costs, steps: int) -> list[int]:
    """The nodes of the path from the first to the last in so many segments with the least sum."""
    count = len(costs)
    best = np.full((steps + 1, count), np.inf)
    before = np.zeros((steps + 1, count), dtype=int)
    best[0, 0] = 0.0
    for k in range(1, steps + 1):
        for j in range(k, count):
            sums = best[k - 1, :j] + costs[:j, j]
            before[k, j] = int(sums.argmin())
            best[k, j] = sums[before[k, j]]
    path = [count - 1]
    for k in range(steps, 0, -1):
        path.append(int(before[k, path[-1]]))
    return path[::-1]
