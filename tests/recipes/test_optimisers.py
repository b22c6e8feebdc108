"""Whose each parameter is, whose rates count, and that a state gives it all back."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from recipes.mini.optimisers import Optimisers

RATES = SimpleNamespace(muon_rate=0.1, adam_rate=0.01, warm_up=1, decay=0.5)


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"inside": nn.Linear(4, 6), "outside": nn.Linear(6, 3)})


def optimisers(module: nn.Module) -> Optimisers:
    return Optimisers(module, lambda name: name.startswith("inside"), RATES)


def loss(module: nn.ModuleDict, step: int) -> torch.Tensor:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
    return module["outside"](module["inside"](x)).square().mean()


def test_muon_has_the_matrices_inside_and_adam_the_rest():
    module = network()
    both = optimisers(module)
    assert both.muon.param_groups[0]["params"] == [module["inside"].weight]
    assert {p.ndim for p in both.adam.param_groups[0]["params"]} == {1, 2}
    assert len(both.adam.param_groups[0]["params"]) == 3


def test_rates_are_those_of_the_step_and_of_the_settings():
    module = network()
    both = optimisers(module)
    both.step(loss(module, 0), step=9, steps=10)
    assert both.muon.param_groups[0]["lr"] == pytest.approx(0.1 * 0.2)
    assert both.adam.param_groups[0]["lr"] == pytest.approx(0.01 * 0.2)


def test_a_part_may_have_a_share_of_the_rates():
    module = network()
    share = {"inside.weight": 0.5, "outside.bias": 0.1}
    both = Optimisers(
        module, lambda name: name == "inside.weight", RATES, lambda n: share.get(n, 1)
    )
    both.step(loss(module, 0), step=9, steps=10)
    assert [group["lr"] for group in both.muon.param_groups] == [pytest.approx(0.1 * 0.2 * 0.5)]
    rates = {len(group["params"]): group["lr"] for group in both.adam.param_groups}
    assert rates == {2: pytest.approx(0.01 * 0.2), 1: pytest.approx(0.01 * 0.2 * 0.1)}


def test_a_step_lowers_the_loss_and_a_huge_gradient_is_clipped():
    module = network()
    both = optimisers(module)
    before = loss(module, 0).item()
    for step in range(5):
        both.step(1e6 * loss(module, 0), step, 10)
    assert loss(module, 0).item() < before
    norms = [p.grad.norm() for p in module.parameters() if p.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(1.0, abs=1e-3)


def test_a_state_goes_on_where_it_stopped():
    straight, first, second = network(), network(), network()
    whole, half = optimisers(straight), optimisers(first)
    for step in range(6):
        whole.step(loss(straight, step), step, 6)
    for step in range(3):
        half.step(loss(first, step), step, 6)
    second.load_state_dict(first.state_dict())
    rest = optimisers(second)
    rest.load_state_dict(half.state_dict())
    for step in range(3, 6):
        rest.step(loss(second, step), step, 6)
    for one, other in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
