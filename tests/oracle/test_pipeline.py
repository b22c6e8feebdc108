"""Prompt to picture: danqing's pipeline against QwenImagePipeline from the same noise."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from danqing.sampling import latents
from danqing.sampling.schedule import schedule
from danqing.types import Request

from . import reference
from .compare import PICTURES, assert_close
from .random_models import Pair, make_pair
from .random_specs import draw

GetPair = Callable[[int], Pair]
LONG = "two foxes on a hill, 一只猫 by the sea, and more words so that this is the longer prompt"
SHORT = "一只狐狸"
NEGATIVE = "a blue cat in the rain"
# seed of the model, (width, height), steps, guidance
CASES = [
    (0, (64, 64), 1, 1.0),
    (1, (80, 48), 2, 4.0),
    (3, (48, 112), 3, 4.0),
    (5, (112, 80), 4, 1.0),
    (7, (16, 144), 5, 4.0),
    (8, (144, 16), 5, 1.0),
    (10, (80, 80), 4, 4.0),
    (13, (48, 80), 2, 1.0),
]
# Lightning adapters want another schedule; some models a static shift.
SCHEDULES: list[dict[str, Any]] = [
    {"base_shift": math.log(3), "max_shift": math.log(3), "shift_terminal": None},
    {"use_dynamic_shifting": False, "shift": 3.0, "shift_terminal": None},
    {"time_shift_type": "linear", "base_shift": 1.5, "max_shift": 2.5},
]


def sigmas_for(pair: Pair, size: tuple[int, int], steps: int) -> list[float]:
    width, height = size
    return schedule(steps, width // 16 * (height // 16), pair.pipe.model.schedule)


def painted(
    pair: Pair, prompts: Sequence[str], noise: list[Tensor], sigmas: list[float], guidance: float
) -> Tensor:
    """danqing's stages, one after the other: pictures [B, 3, H, W] in [0, 1]."""
    pipe = pair.pipe
    text, negative = pipe.encode(prompts), pipe.encode([NEGATIVE]) * len(prompts)
    clean = pipe.denoise(text, noise, sigmas, guidance, negative=negative)
    return torch.stack(pipe.decode(clean)).mul(0.5).add(0.5).clamp(0, 1)


def assert_same_pictures(pair: Pair, size: tuple[int, int], steps: int, guidance: float) -> None:
    """Stages and ``generate`` against the oracle, alone and as a batch of unequal prompts."""
    prompts, seeds = [LONG, SHORT], [3, 4]
    noise = [pair.pipe.noise(seed, size) for seed in seeds]
    options = {"size": size, "steps": steps, "true_cfg_scale": guidance}
    if guidance > 1:
        options["negative_prompt"] = [NEGATIVE] * 2
    theirs = reference.paint(pair.oracle, prompts, noise, **options)
    assert theirs.std() > 0.05
    ours = painted(pair, prompts, noise, sigmas_for(pair, size, steps), guidance)
    assert_close(ours, theirs, PICTURES)
    negative = {"negative": NEGATIVE} if guidance > 1 else {}
    requests = [
        Request(p, seed=s, size=size, steps=steps, guidance=guidance, **negative)
        for p, s in zip(prompts, seeds, strict=True)
    ]
    for result, picture in zip(pair.pipe.generate(requests), theirs, strict=True):
        bytes_CHW = torch.from_numpy(np.array(result.image)).permute(2, 0, 1).float()
        assert (bytes_CHW - picture * 255).abs().max() <= 0.5 + 255 * PICTURES


@pytest.mark.parametrize(("seed", "size", "steps", "guidance"), CASES)
def test_pictures(
    pair_of: GetPair, seed: int, size: tuple[int, int], steps: int, guidance: float
) -> None:
    pair = pair_of(seed)
    if steps == 1:  # the published terminal stretch breaks the oracle at one step
        oracle = reference.with_schedule(pair.oracle, shift_terminal=None)
        pair = replace(pair, oracle=oracle)
    assert_same_pictures(pair, size, steps, guidance)


@pytest.mark.parametrize("changes", SCHEDULES, ids=["lightning", "static", "linear"])
def test_pictures_with_another_schedule(tmp_path, changes: dict[str, Any]) -> None:
    pair = make_pair(draw(5).with_schedule(**changes), tmp_path / "model")
    assert_same_pictures(pair, (80, 48), 4, 4.0)


def test_plain_sigmas(pair_of: GetPair) -> None:
    """A list of noise levels; the oracle warps any list, so its shift is switched off."""
    pair, size = pair_of(6), (48, 64)
    oracle = reference.with_schedule(
        pair.oracle, use_dynamic_shifting=False, shift=1.0, shift_terminal=None
    )
    noise, levels = [pair.pipe.noise(1, size)], [1.0, 0.9, 0.5]
    theirs = reference.paint(
        oracle, [LONG], noise, size=size, steps=3, sigmas=levels, true_cfg_scale=1.0
    )
    assert_close(painted(pair, [LONG], noise, levels, 1.0), theirs, PICTURES)


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 1])
def test_the_same_seed_is_the_same_noise(pair_of: GetPair, seed: int) -> None:
    pair, (width, height) = pair_of(1), (80, 48)
    channels = pair.spec.transformer["in_channels"] // 4
    generator = torch.Generator("cpu").manual_seed(seed)
    theirs = pair.oracle.prepare_latents(
        1, channels, height, width, torch.float32, torch.device("cpu"), generator
    )
    assert torch.equal(latents.pack(pair.pipe.noise(seed, (width, height))), theirs[0])


def test_one_step_with_a_terminal_stretch(pair_of: GetPair) -> None:
    """The oracle divides 0 by 0; danqing steps from pure noise to the picture."""
    pair, size = pair_of(2), (64, 48)
    assert pair.pipe.model.schedule.shift_terminal == 0.02
    assert sigmas_for(pair, size, 1) == [1.0, 0.0]
    noise = [pair.pipe.noise(5, size)]
    with np.errstate(invalid="ignore"):
        theirs = reference.paint(
            pair.oracle, [SHORT], noise, size=size, steps=1, true_cfg_scale=1.0
        )
    assert torch.isnan(theirs).all()
    ours = painted(pair, [SHORT], noise, [1.0, 0.0], 1.0)
    assert torch.isfinite(ours).all()
    text = pair.pipe.encode([SHORT])[0].features
    grid = (size[1] // 16, size[0] // 16)
    patches = latents.pack(noise[0])
    velocity = reference.velocity(pair.oracle.transformer, patches, text, grid, 1.0)
    raw = reference.raw_latent(pair.oracle.vae, latents.unpack(patches - velocity, *grid)[None])
    expected = reference.decoded(pair.oracle.vae, raw).mul(0.5).add(0.5).clamp(0, 1)
    assert_close(ours, expected, PICTURES)
