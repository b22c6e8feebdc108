"""Values against the published ones are in oracle/; these are the properties."""

import math
from itertools import pairwise

import pytest

from danqing.errors import RequestError
from danqing.sampling.schedule import ScheduleConfig, check_sigmas, dynamic_shift, schedule

QWEN = ScheduleConfig()
PLAIN = ScheduleConfig(use_dynamic_shifting=False, shift_terminal=None)
LIGHTNING = ScheduleConfig(base_shift=math.log(3), max_shift=math.log(3), shift_terminal=None)


@pytest.mark.parametrize(
    "config", [QWEN, PLAIN, LIGHTNING, ScheduleConfig(time_shift_type="linear")]
)
@pytest.mark.parametrize("steps", [1, 2, 4, 50])
def test_levels_fall_from_noise_to_a_closing_zero(steps: int, config: ScheduleConfig) -> None:
    sigmas = schedule(steps, 4096, config)
    assert len(sigmas) == steps + 1
    assert (sigmas[0], sigmas[-1]) == (1.0, 0.0)
    assert all(a > b for a, b in pairwise(sigmas))


@pytest.mark.parametrize("steps", [2, 4, 50])
def test_the_last_level_is_the_terminal(steps: int) -> None:
    assert schedule(steps, 1024, QWEN)[-2] == pytest.approx(0.02, abs=1e-6)


def test_one_step_needs_no_stretch() -> None:
    """The reference gives NaN here."""
    assert schedule(1, 4096, QWEN) == [1.0, 0.0]


def test_without_shift_the_levels_are_even() -> None:
    assert schedule(4, 4096, PLAIN) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_static_shift() -> None:
    config = ScheduleConfig(use_dynamic_shifting=False, shift=3.0, shift_terminal=None)
    assert schedule(2, 4096, config) == pytest.approx([1.0, 0.75, 0.0])


def test_the_shift_of_lightning_is_three() -> None:
    assert schedule(4, 999, LIGHTNING) == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])


def test_mu_is_linear_through_the_anchors_and_beyond() -> None:
    assert dynamic_shift(256, QWEN) == pytest.approx(0.5)
    assert dynamic_shift(8192, QWEN) == pytest.approx(0.9)
    assert dynamic_shift(4096, QWEN) == pytest.approx(0.6935483871)
    assert dynamic_shift(16, QWEN) < 0.5
    assert dynamic_shift(16128, QWEN) == pytest.approx(1.3)


def test_larger_pictures_stay_longer_in_the_noise() -> None:
    small, large = schedule(4, 64, QWEN), schedule(4, 8192, QWEN)
    assert all(a < b for a, b in zip(small[1:3], large[1:3], strict=True))


@pytest.mark.parametrize(
    ("given", "levels"),
    [
        ([1.0, 0.5], [1.0, 0.5, 0.0]),
        ([1.0, 0.5, 0.0], [1.0, 0.5, 0.0]),
        ((0.8,), [0.8, 0.0]),
        ([1, 0], [1.0, 0.0]),
    ],
)
def test_a_plain_list_gets_its_closing_zero(given: list[float], levels: list[float]) -> None:
    assert check_sigmas(given) == levels


WRONG = [[], [0.0], [1.0001, 0.5], [0.5, 0.5], [0.5, 0.7], [1.0, -0.1], [1.0, float("nan"), 0.2]]


@pytest.mark.parametrize("given", [*WRONG, [float("inf")], [0.9, 0.0, 0.0]])
def test_a_list_that_does_not_fall_is_an_error(given: list[float]) -> None:
    with pytest.raises(RequestError, match=r"sigmas \[.* must fall from at most 1 towards 0"):
        check_sigmas(given)


@pytest.mark.parametrize("given", [["high", "low"], 0.5, [None]])
def test_what_is_no_list_of_numbers_is_an_error(given: object) -> None:
    with pytest.raises(RequestError, match="sigmas"):
        check_sigmas(given)
