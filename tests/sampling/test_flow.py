import pytest
import torch

from danqing.sampling import flow
from tests import tiny

CLEAN, NOISE = tiny.draw(5, 8), tiny.draw(5, 8, seed=1)


def test_the_ends_are_clean_and_noise() -> None:
    assert torch.equal(flow.interpolate(CLEAN, NOISE, 0.0), CLEAN)
    assert torch.equal(flow.interpolate(CLEAN, NOISE, 1.0), NOISE)


def test_the_velocity_is_the_derivative() -> None:
    step = flow.interpolate(CLEAN, NOISE, 0.75) - flow.interpolate(CLEAN, NOISE, 0.25)
    torch.testing.assert_close(step, 0.5 * flow.velocity(CLEAN, NOISE))


@pytest.mark.parametrize("sigma", [1.0, 0.4, 0.0])
def test_the_clean_sample_comes_back(sigma: float) -> None:
    sample = flow.interpolate(CLEAN, NOISE, sigma)
    torch.testing.assert_close(flow.denoised(sample, sigma, flow.velocity(CLEAN, NOISE)), CLEAN)


def test_each_row_may_have_its_own_level() -> None:
    sigmas = torch.linspace(0, 1, 5)[:, None]
    rows = [flow.interpolate(CLEAN[i], NOISE[i], float(sigmas[i])) for i in range(5)]
    torch.testing.assert_close(flow.interpolate(CLEAN, NOISE, sigmas), torch.stack(rows))


def test_euler_steps_add_up_along_a_straight_line() -> None:
    velocity, sample = flow.velocity(CLEAN, NOISE), NOISE
    for sigma, following in ((1.0, 0.7), (0.7, 0.2), (0.2, 0.0)):
        sample = flow.euler(sample, velocity, sigma, following)
    torch.testing.assert_close(sample, CLEAN)


def test_euler_works_in_the_samples_dtype() -> None:
    velocity = tiny.draw(5, 8, dtype=torch.bfloat16)
    moved = flow.euler(NOISE, velocity, 1.0, 0.9)
    assert moved.dtype == torch.float32
    assert torch.equal(moved, NOISE + (0.9 - 1.0) * velocity.float())
