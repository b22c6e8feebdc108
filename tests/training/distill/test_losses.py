"""The formulas on Gaussian data, where teacher and fake score are known in closed form."""

import math

import pytest
import torch
from torch import Tensor

from danqing.sampling import flow
from danqing.training.distill import losses

MEAN, STD = 1.5, 0.4  # of the teacher's data


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clean_estimate(x: Tensor, sigma: float, mean: float, std: float) -> Tensor:
    """E[clean | x_sigma] where clean is normal: what a perfect network's velocity points to."""
    spread = (1 - sigma) ** 2 * std**2 + sigma**2
    return mean + (1 - sigma) * std**2 / spread * (x - (1 - sigma) * mean)


def velocity(x: Tensor, sigma: float, mean: float, std: float) -> Tensor:
    return (x - clean_estimate(x, sigma, mean, std)) / sigma


def test_a_segment_velocity_leads_from_node_to_node_in_one_step():
    state, target = normal(5, 3, seed=0), normal(5, 3, seed=1)
    found = losses.segment_velocity(state, target, 0.9, 0.6)
    torch.testing.assert_close(flow.euler(state, found, 0.9, 0.6), target)


def test_imitation_is_zero_at_the_teacher_only():
    wanted = normal(4, 3, seed=2)
    assert losses.imitation_loss(wanted, wanted) == 0
    assert losses.imitation_loss(wanted + 0.1, wanted) == pytest.approx(0.01)


def test_the_fake_score_learns_the_students_pictures():
    """Its loss is least at the closed form of the student's own distribution."""
    clean, noise = 0.3 + 0.8 * normal(200_000, seed=3), normal(200_000, seed=4)
    state = flow.interpolate(clean, noise, 0.6)
    at = {
        (mean, std): losses.fake_loss(velocity(state, 0.6, mean, std), clean, noise).item()
        for mean in (0.0, 0.3, 0.6)
        for std in (0.5, 0.8, 1.1)
    }
    assert min(at, key=at.__getitem__) == (0.3, 0.8)


def test_matching_is_zero_where_both_distributions_are_one():
    x = normal(100, seed=5)
    same = clean_estimate(x, 0.5, MEAN, STD)
    assert losses.matching(same, same).abs().max() == 0


def generator_after(steps: int, weight: float, guided_mean: float = MEAN) -> tuple[float, float]:
    """Mean and deviation of a + b noise after so many steps of matching, beside guidance."""
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-0.5, 1.5))
    optimiser = torch.optim.Adam([a, b], lr=0.05)
    for step in range(steps):
        own = a + b * normal(2000, seed=10 + step)
        rng = torch.Generator().manual_seed(step)
        tau = 0.02 + 0.96 * torch.rand(1, generator=rng).item()
        state = flow.interpolate(own.detach(), normal(2000, seed=99 + step), tau)
        teacher = clean_estimate(state, tau, MEAN, STD)
        fake = clean_estimate(state, tau, a.item(), abs(b.item()))
        guided = clean_estimate(state, tau, guided_mean, STD)
        direction = losses.in_units(losses.matching(teacher, fake), teacher, own.detach())
        extra = losses.in_units(losses.guiding(guided, teacher), teacher, own.detach())
        optimiser.zero_grad()
        losses.push(own, direction + weight * extra).backward()
        optimiser.step()
    return a.item(), abs(b.item())


def test_matching_leads_a_generator_to_the_teachers_distribution():
    mean, std = generator_after(400, weight=0)
    assert mean == pytest.approx(MEAN, abs=0.05)
    assert std == pytest.approx(STD, abs=0.08)


def test_guidance_moves_it_further_and_matching_holds_it_back():
    plain, _ = generator_after(400, weight=0)
    guided, std = generator_after(400, weight=1, guided_mean=2.0)
    assert plain + 0.1 < guided < 3.0
    assert std < 1.0


def test_a_push_is_along_the_direction_and_nowhere_else():
    own = normal(6, 2, seed=6).requires_grad_()
    direction = normal(6, 2, seed=7)
    losses.push(own, direction).backward()
    torch.testing.assert_close(own.grad, -direction / direction.numel())


def test_units_do_not_explode_where_the_student_is_right():
    own, direction = normal(8, seed=8), normal(8, seed=9)
    near = losses.in_units(direction, own + 1e-9, own)
    torch.testing.assert_close(near, direction / losses.LEAST_SCALE)
    far = losses.in_units(direction, own + 2.0, own)
    torch.testing.assert_close(far, direction / 2.0)


def test_without_guidance_there_is_nothing_to_add():
    """Scale 1: what is guided is the teacher itself."""
    assert losses.guiding(normal(4, seed=1), normal(4, seed=1)).abs().max() == 0


def test_drift_sees_a_channel_that_moves_or_fades():
    teacher = [normal(50, 4, seed=s) for s in range(6)]
    assert losses.drift(teacher, teacher) == pytest.approx(0)
    moved = [x + torch.tensor([0, 0, 0.7, 0]) for x in teacher]
    assert losses.drift(moved, teacher) == pytest.approx(0.7, abs=0.05)
    faded = [x * torch.tensor([1, 0.4, 1, 1]) for x in teacher]
    assert losses.drift(faded, teacher) == pytest.approx(0.6, abs=0.02)


def test_cosine():
    x = normal(5, 5, seed=3)
    assert losses.cosine(x, 2 * x) == pytest.approx(1)
    assert losses.cosine(x, -x) == pytest.approx(-1)
    assert math.isfinite(losses.cosine(x, torch.zeros_like(x)))
