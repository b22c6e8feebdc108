"""Baked = unbaked: a table made at once, and modulation computed level by level."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from danqing import Pipeline
from danqing.models.layout import Layout, Segment
from danqing.models.transformer import Modulation, Transformer
from danqing.sampling import flow, latents
from tests import tiny

LEVELS = [1.0, 0.93, 0.71, 0.5, 0.02]


@pytest.fixture
def network() -> Transformer:
    return tiny.transformer()


def run(network: Transformer, table: Modulation, row: int) -> Tensor:
    layout = Layout((Segment(4, 3, 7), Segment(2, 5, 9)))
    text = tiny.draw(16, 64, seed=2)
    return network(tiny.draw(22, 64), text, layout, table, torch.tensor([row, row]))


@torch.inference_mode()
def paint_unbaked(pipe: Pipeline, prompt: str, noise: Tensor, sigmas: list[float]) -> Tensor:
    """The denoising of one picture with the modulation weights in use at every step."""
    text = pipe.encode([prompt])[0].features
    rows, columns = (n // 2 for n in noise.shape[-2:])
    layout = Layout((Segment(rows, columns, len(text)),))
    patches = latents.pack(noise)
    for sigma, following in pairwise(sigmas):
        table = pipe.model.transformer.modulation(torch.tensor([sigma]))
        velocity = pipe.model.transformer(patches, text, layout, table, torch.tensor([0]))
        patches = flow.euler(patches, velocity, sigma, following)
    return latents.unpack(patches, rows, columns)


@pytest.mark.parametrize("size", [(64, 64), (96, 48)])
def test_a_picture_from_the_table_and_from_the_weights(
    tiny_pipe: Pipeline, size: tuple[int, int]
) -> None:
    noise = tiny_pipe.noise(4, size)
    baked = tiny_pipe.denoise(tiny_pipe.encode(["a cat"]), [noise], [*LEVELS, 0.0])[0]
    assert torch.equal(baked, paint_unbaked(tiny_pipe, "a cat", noise, [*LEVELS, 0.0]))


def test_rows_do_not_depend_on_the_rest_of_the_schedule(network: Transformer) -> None:
    whole, part = network.bake(LEVELS), network.bake(LEVELS[2:3])
    for ours, alone in ((whole.img, part.img), (whole.txt, part.txt)):
        assert all(torch.equal(a[2], b[0]) for a, b in zip(ours, alone, strict=True))
    assert torch.equal(whole.out[2], part.out[0])


def test_many_levels_are_baked_like_few(network: Transformer) -> None:
    many = network.bake([n / 50 for n in range(50, 0, -1)])
    assert torch.equal(many.img[1][25], network.bake([0.5]).img[1][0])


def test_the_network_runs_on_without_its_modulation(network: Transformer) -> None:
    table = network.bake(LEVELS)
    with_weights = [run(network, table, row) for row in range(len(LEVELS))]
    network.drop_modulation()
    for row, expected in enumerate(with_weights):
        assert torch.equal(run(network, table, row), expected)


def test_what_is_dropped_is_the_modulation_and_nothing_else(network: Transformer) -> None:
    before = {name for name, _ in network.named_parameters()}
    network.drop_modulation()
    dropped = before - {name for name, _ in network.named_parameters()}
    expected = {n for n in before if ".mod." in n or n.startswith(("time_in.", "norm_out."))}
    assert dropped == expected
    assert len(expected) == 4 * tiny.TRANSFORMER.num_layers + 6
