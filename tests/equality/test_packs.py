"""Contract 1: a picture has the same bits alone and in any company, order and number of threads."""

import random

import pytest
import torch

from danqing import Pipeline, Request
from tests.equality.requests import REQUESTS

PARTITIONS = 20


def hashes(pipe: Pipeline, requests: list[Request]) -> list[str]:
    return [result.recipe["pixels_sha256"] for result in pipe.generate(requests)]


def partition(places: list[int], rng: random.Random) -> list[list[int]]:
    """The places in random order, cut at random points."""
    shuffled = rng.sample(places, len(places))
    cuts = sorted(rng.sample(range(1, len(places)), rng.randrange(0, 4)))
    return [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(places)], strict=True)]


@pytest.fixture(scope="module")
def alone(tiny_pipe: Pipeline) -> list[str]:
    """The reference: every picture in a call of its own, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [hashes(tiny_pipe, [request])[0] for request in REQUESTS]
    finally:
        torch.set_num_threads(before)


def test_the_requests_are_twelve_different_pictures(alone: list[str]) -> None:
    assert len(set(alone)) == len(REQUESTS) == 12


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("seed", range(PARTITIONS))
def test_any_partition_and_order(
    tiny_pipe: Pipeline, alone: list[str], seed: int, num_threads: int
) -> None:
    torch.set_num_threads(num_threads)
    for places in partition(list(range(len(REQUESTS))), random.Random(seed)):
        found = hashes(tiny_pipe, [REQUESTS[place] for place in places])
        assert found == [alone[place] for place in places]
