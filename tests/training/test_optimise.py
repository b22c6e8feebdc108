import sys
from itertools import pairwise

import pytest
import torch
from torch import nn

from danqing.errors import TrainingError
from danqing.training.optimise import Average, make_optimiser, rate_factor


def test_warm_up_then_constant() -> None:
    factors = [rate_factor(step, 10, 4, "constant") for step in range(10)]
    assert factors == [0.25, 0.5, 0.75, 1.0, *[1.0] * 6]


def test_warm_up_then_cosine() -> None:
    factors = [rate_factor(step, 12, 2, "cosine") for step in range(13)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[7] == pytest.approx(0.5)
    assert factors[12] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(factors[2:]))


def test_no_warm_up() -> None:
    assert rate_factor(0, 10, 0, "cosine") == 1.0


@pytest.mark.parametrize("name", ["adamw", "prodigy", "adamw8bit"])
def test_optimisers_go_down(name: str) -> None:

    weight = nn.Parameter(torch.full((64, 64), 2.0))
    optimiser = make_optimiser(name, [weight], 1.0 if name == "prodigy" else 0.05, 0.0)
    for _ in range(300):
        optimiser.zero_grad()
        weight.square().mean().backward()
        optimiser.step()
    assert float(weight.detach().abs().mean()) < 1.9


def test_unknown_and_missing_optimisers(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(
        TrainingError, match="optimiser 'sgd' is not known; choose adamw, adamw8bit"
    ):
        make_optimiser("sgd", [weight], 1.0, 0.0)
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(TrainingError, match=r"pip install danqing\[train\]"):
        make_optimiser("prodigy", [weight], 1.0, 0.0)


def test_the_average_follows_and_swaps_back() -> None:
    weight = nn.Parameter(torch.zeros(3))
    average = Average({"w": weight}, 0.9)
    for step in range(200):
        with torch.no_grad():
            weight.fill_(1.0 if step < 100 else 3.0)
        average.update(step)
    assert float(average.shadow["w"][0]) == pytest.approx(3.0, abs=1e-3)
    average.shadow["w"].fill_(7.0)
    average.swap()
    assert float(weight[0].detach()) == 7.0
    average.swap()
    assert (float(weight[0].detach()), float(average.shadow["w"][0])) == (3.0, 7.0)


def test_early_steps_weigh_more() -> None:
    weight = nn.Parameter(torch.zeros(1))
    average = Average({"w": weight}, 0.999)
    with torch.no_grad():
        weight.fill_(1.0)
    average.update(0)
    assert float(average.shadow["w"][0]) == pytest.approx(0.9)
