"""On a CUDA device: the CPU's picture but for rounding, and the same bits each time."""

import numpy as np
import pytest

import danqing

pytestmark = pytest.mark.gpu
REQUESTS = [danqing.Request("a fox", seed=7), danqing.Request("一只企鹅", seed=8, guidance=1.0)]


def pictures(device: str) -> list[np.ndarray]:
    pipe = danqing.load("mini", device=device, dtype="float32")
    return [np.asarray(r.image).astype(int) for r in pipe.generate(REQUESTS)]


def test_as_on_the_cpu() -> None:
    for cuda, cpu in zip(pictures("cuda"), pictures("cpu"), strict=True):
        assert np.abs(cuda - cpu).max() <= 2


def test_repeats_to_the_bit_alone_and_in_a_batch() -> None:
    pipe = danqing.load("mini", device="cuda")
    together = [r.recipe["pixels_sha256"] for r in pipe.generate(REQUESTS)]
    alone = [pipe.generate(r).recipe["pixels_sha256"] for r in REQUESTS]
    assert together == alone
