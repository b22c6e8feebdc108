"""The template's cached keys and values change nothing: cache = none, bit for bit."""

import random

import pytest
import torch
from torch import Tensor

from danqing.models.text_encoder import TextEncoder
from tests import tiny

TEMPLATE = 34
LENGTHS = range(1, 71)


@pytest.fixture(scope="module")
def network() -> TextEncoder:
    return tiny.text_encoder()


def ids(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(tiny.TEXT.vocab_size, (count,), generator=generator)


HEAD = ids(TEMPLATE, 99)
PROMPTS = [ids(length, seed) for seed, length in enumerate(LENGTHS)]


def without_cache(network: TextEncoder, prompts: list[Tensor]) -> list[Tensor]:
    """Whole texts, template and all; the features of the template are dropped."""
    whole = [torch.cat([HEAD, prompt]) for prompt in prompts]
    lengths = [len(text) for text in whole]
    parts = network(torch.cat(whole), lengths, template=TEMPLATE).split(lengths)
    return [part[TEMPLATE:] for part in parts]


def with_cache(network: TextEncoder, prompts: list[Tensor]) -> list[Tensor]:
    lengths = [len(prompt) for prompt in prompts]
    prefix = network.prefix(HEAD)
    return list(network(torch.cat(prompts), lengths, prefix).split(lengths))


@torch.inference_mode()
def test_each_length_alone(network: TextEncoder) -> None:
    for prompt in PROMPTS:
        expected = without_cache(network, [prompt])[0]
        assert torch.equal(with_cache(network, [prompt])[0], expected), len(prompt)


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(3))
def test_all_lengths_in_one_pack(network: TextEncoder, seed: int) -> None:
    prompts = random.Random(seed).sample(PROMPTS, len(PROMPTS))
    expected = [without_cache(network, [prompt])[0] for prompt in prompts]
    for found in (with_cache(network, prompts), without_cache(network, prompts)):
        assert all(map(torch.equal, found, expected))


@torch.inference_mode()
def test_the_template_is_read(network: TextEncoder) -> None:
    """Were it left out, both paths could agree and be wrong."""
    prompt = PROMPTS[20]
    assert not torch.allclose(with_cache(network, [prompt])[0], network(prompt, [len(prompt)]))


@torch.inference_mode()
def test_attending_in_one_call_gives_the_same_but_for_rounding(network: TextEncoder) -> None:
    text = torch.cat([HEAD, PROMPTS[40]])
    plain = network(text, [len(text)])[TEMPLATE:]
    torch.testing.assert_close(with_cache(network, [PROMPTS[40]])[0], plain, atol=2e-6, rtol=0)
