"""The nodes that dynamic programming finds are those that trying all of them finds."""

import itertools

import numpy as np
import pytest
import torch

from danqing.errors import TrainingError
from danqing.training.distill.nodes import best_nodes, cheapest_path, mean_costs, segment_costs
from tests import tiny

SIGMAS = [1.0, 0.95, 0.88, 0.8, 0.7, 0.55, 0.4, 0.25, 0.1, 0.0]


def bent(seed: int) -> list[torch.Tensor]:
    """Straight from the noise down to 0.7, then curved."""
    noise, clean, aside = (tiny.draw(6, 4, seed=3 * seed + i) for i in range(3))
    return [(1 - s) * clean + s * noise + 3 * max(0.0, 0.7 - s) ** 2 * aside for s in SIGMAS]


def straight(seed: int) -> list[torch.Tensor]:
    noise, clean = tiny.draw(6, 4, seed=seed), tiny.draw(6, 4, seed=seed + 50)
    return [(1 - s) * clean + s * noise for s in SIGMAS]


def test_straight_ways_cost_nothing():
    assert segment_costs(straight(0), SIGMAS).max() < 1e-10


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_no_other_nodes_are_better(steps):
    costs = np.mean([segment_costs(bent(seed), SIGMAS) for seed in range(3)], axis=0)
    last = len(SIGMAS) - 1

    def total(inner: tuple[int, ...]) -> float:
        return sum(costs[a, b] for a, b in itertools.pairwise((0, *inner, last)))

    ways = itertools.combinations(range(1, last), steps - 1)
    found = cheapest_path(costs, steps)
    assert total(tuple(found[1:-1])) == pytest.approx(min(map(total, ways)))
    assert (found[0], found[-1]) == (0, last)


def test_nodes_stand_where_the_way_bends():
    costs = mean_costs((bent(seed) for seed in range(4)), SIGMAS)
    nodes = best_nodes(costs, SIGMAS, 4)
    assert len(nodes) == 4
    assert nodes[0] == 1.0
    assert sum(node <= 0.7 for node in nodes[1:]) >= 2
    assert best_nodes(costs, SIGMAS, 1) == (1.0,)


def test_a_student_cannot_have_more_steps_than_its_teacher():
    with pytest.raises(TrainingError, match="steps 10 must be from 1 to the teacher's 9"):
        best_nodes(mean_costs([straight(0)], SIGMAS), SIGMAS, 10)
