"""Noise levels against FlowMatchEulerDiscreteScheduler, as QwenImagePipeline drives it.

Equal means equal float32 values, bit for bit, unless a test says otherwise.
"""

import math
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

from danqing.sampling import flow
from danqing.sampling.schedule import ScheduleConfig, dynamic_shift, schedule

from .compare import normal
from .random_specs import PUBLISHED_SCHEDULE

PUBLISHED = ScheduleConfig()
LIGHTNING = ScheduleConfig(base_shift=math.log(3), max_shift=math.log(3), shift_terminal=None)
# Printed by the oracle (diffusers 0.42.1): size, steps, mu, first values, last values.
PUBLISHED_VALUES = [
    ((1024, 1024), 4, 0.6935483871, [1.0, 0.7667093277, 0.4556137323, 0.0199999809, 0.0], []),
    (
        (1328, 1328),
        50,
        0.8343245968,
        [1.0, 0.9909883142, 0.9817679524, 0.9723315835],
        [0.0637827516, 0.0199999809, 0.0],
    ),
    (
        (1664, 928),
        50,
        0.7911290323,
        [1.0, 0.9906120300, 0.9810141921, 0.9711994529],
        [0.0620875955, 0.0199999809, 0.0],
    ),
    (
        (512, 512),
        8,
        0.5387096774,
        [1.0, 0.9061342478, 0.8013588190, 0.6836543083],
        [0.2235991359, 0.0200000405, 0.0],
    ),
]
LIGHTNING_VALUES = [
    1.0, 0.9545454979, 0.8999999762, 0.8333333731, 0.75, 0.6428570747, 0.5, 0.3000000119, 0.0,
]  # fmt: skip


def oracle_sigmas(steps: int, patches: int, config: dict[str, Any]) -> list[float]:
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(patches, *(scheduler.config[name] for name in names))
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return scheduler.sigmas.tolist()


def as_config(config: ScheduleConfig) -> dict[str, Any]:
    return dict(vars(config))


def patches_of(size: tuple[int, int]) -> int:
    return size[0] // 16 * (size[1] // 16)


def test_the_defaults_are_the_published_values() -> None:
    assert as_config(PUBLISHED) == {**PUBLISHED_SCHEDULE, "shift": 1.0}


@pytest.mark.parametrize(("size", "steps", "mu", "first", "last"), PUBLISHED_VALUES)
def test_published_values(
    size: tuple[int, int], steps: int, mu: float, first: list[float], last: list[float]
) -> None:
    assert dynamic_shift(patches_of(size), PUBLISHED) == pytest.approx(mu, abs=5e-11)
    ours = schedule(steps, patches_of(size), PUBLISHED)
    assert len(ours) == steps + 1
    # Ten printed digits name a float32 exactly.
    expected = np.array(first + last, dtype=np.float32)
    found = ours[: len(first)] + ours[len(ours) - len(last) :]
    assert np.array_equal(np.array(found, dtype=np.float32), expected)


def test_lightning_values() -> None:
    ours = np.array(schedule(8, 4096, LIGHTNING), dtype=np.float32)
    assert np.array_equal(ours, np.array(LIGHTNING_VALUES, dtype=np.float32))
    assert ours.tolist() == oracle_sigmas(8, 4096, as_config(LIGHTNING))


@pytest.mark.parametrize("size", [(1328, 1328), (1664, 928), (128, 128), (2048, 2048), (16, 16)])
def test_the_published_schedule_at_many_steps(size: tuple[int, int]) -> None:
    for steps in (2, 3, 4, 8, 20, 30, 50, 100, 1000):
        theirs = oracle_sigmas(steps, patches_of(size), as_config(PUBLISHED))
        assert schedule(steps, patches_of(size), PUBLISHED) == theirs


def random_config(chance: Random) -> ScheduleConfig:
    base = chance.uniform(0.1, 1.5)
    return ScheduleConfig(
        use_dynamic_shifting=chance.random() < 0.7,
        time_shift_type=chance.choice(("exponential", "linear")),
        base_shift=base,
        max_shift=base + chance.uniform(0.0, 1.5),
        base_image_seq_len=chance.choice((64, 256)),
        max_image_seq_len=chance.choice((4096, 8192)),
        shift=chance.choice((1.0, 3.0, chance.uniform(0.5, 6.0))),
        shift_terminal=chance.choice((None, 0.02, chance.uniform(0.005, 0.2))),
    )


@pytest.mark.parametrize("seed", range(30))
def test_random_schedules(seed: int) -> None:
    chance = Random(seed)
    config = random_config(chance)
    for _ in range(10):
        steps, patches = chance.randint(2, 60), chance.randint(1, 9000)
        assert schedule(steps, patches, config) == oracle_sigmas(steps, patches, as_config(config))


def test_euler_step() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**as_config(PUBLISHED))
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.25, 4), mu=0.7)
    scheduler.set_begin_index(0)
    sigmas = scheduler.sigmas.tolist()
    ours = theirs = normal((1, 12, 16), 0)
    for i, timestep in enumerate(scheduler.timesteps):
        velocity = normal((1, 12, 16), i + 1)
        theirs = scheduler.step(velocity, timestep, theirs, return_dict=False)[0]
        ours = flow.euler(ours, velocity, sigmas[i], sigmas[i + 1])
        # sigma' - sigma is a float64 here and a float32 there: one unit in the last place.
        assert torch.allclose(ours, theirs, rtol=3e-7, atol=3e-7)
