"""The public stages, one after the other, are `generate`; and each keeps contract 1 by itself."""

import random
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from danqing import Pipeline, Request
from danqing.engine import to_pil
from danqing.recipe import pixels_sha256
from tests.equality.requests import LONG, REQUESTS

PROMPTS = ["a red fox", "一只红色的狐狸", "", LONG, "x", "a cat", "一只猫", "two"]
SIZES = [(64, 64), (96, 32), (16, 16), (48, 80), (64, 64), (32, 32), (64, 48), (64, 64)]
SIGMAS = [1.0, 0.8, 0.3, 0.0]


def staged(pipe: Pipeline, request: Request) -> Tensor:
    """What `generate` does, written with the stages."""
    ready = pipe.check([request])[0]
    sigmas = pipe.generate(request).recipe["sigmas"]
    text, negative = pipe.encode([ready.prompt]), pipe.encode([ready.negative])
    noise = [pipe.noise(ready.seed, ready.size)]
    latents = pipe.denoise(text, noise, sigmas, ready.guidance, negative)
    return pipe.decode(latents)[0]


@pytest.mark.filterwarnings("ignore:the negative prompt")
@pytest.mark.parametrize("place", [0, 1, 2, 6, 9])
def test_the_stages_compose_to_generate(tiny_pipe: Pipeline, place: int) -> None:
    request = REQUESTS[place]
    painted = tiny_pipe.generate(request).recipe["pixels_sha256"]
    assert pixels_sha256(to_pil(staged(tiny_pipe, request))) == painted


def test_text_features_do_not_depend_on_the_company(tiny_pipe: Pipeline) -> None:
    alone = [tiny_pipe.encode([prompt])[0].features for prompt in PROMPTS]
    for seed in range(10):
        places = random.Random(seed).sample(range(len(PROMPTS)), 5)
        together = tiny_pipe.encode([PROMPTS[place] for place in places])
        assert all(torch.equal(t.features, alone[p]) for t, p in zip(together, places, strict=True))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_latents_do_not_depend_on_the_company(
    tiny_pipe: Pipeline, guidance: float, num_threads: int
) -> None:
    torch.set_num_threads(num_threads)
    text = tiny_pipe.encode(PROMPTS)
    noise = [tiny_pipe.noise(seed, size) for seed, size in enumerate(SIZES)]
    alone = [tiny_pipe.denoise([t], [n], SIGMAS, guidance)[0] for t, n in zip(text, noise)]  # noqa: B905
    shuffled = random.Random(7).sample(range(len(PROMPTS)), len(PROMPTS))
    for a, b in pairwise([0, 3, 4, len(PROMPTS)]):
        places = shuffled[a:b]
        found = tiny_pipe.denoise(
            [text[p] for p in places], [noise[p] for p in places], SIGMAS, guidance
        )
        assert all(torch.equal(f, alone[p]) for f, p in zip(found, places, strict=True))


def test_a_missing_negative_is_a_blank(tiny_pipe: Pipeline) -> None:
    text, noise = tiny_pipe.encode(["a cat"]), [tiny_pipe.noise(3, (32, 32))]
    blank = tiny_pipe.denoise(text, noise, SIGMAS, 3.0, tiny_pipe.encode([" "]))[0]
    other = tiny_pipe.denoise(text, noise, SIGMAS, 3.0, tiny_pipe.encode(["a dog"]))[0]
    assert torch.equal(tiny_pipe.denoise(text, noise, SIGMAS, 3.0)[0], blank)
    assert not torch.equal(other, blank)
