"""What contract 1 stands on: a row's bits depend neither on the other rows nor on the threads."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.models import text_encoder, transformer
from danqing.models.activations import gelu, silu
from danqing.models.layout import Layout, Segment
from danqing.models.linear import MIN_ROWS, linear
from tests import tiny

THREADS = [1, 2, 3, 5, 7]
DTYPES = [torch.float32, torch.bfloat16]
ROWS = 203  # times the width: large enough for the kernels to share it out among threads


@pytest.fixture(params=THREADS, ids=lambda n: f"{n}-threads")
def any_threads(request: pytest.FixtureRequest, threads: None) -> None:
    torch.set_num_threads(request.param)


def on_one_thread(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    now = torch.get_num_threads()
    torch.set_num_threads(1)
    out = function(x)
    torch.set_num_threads(now)
    return out


def pieces(x: Tensor) -> list[Tensor]:
    """All rows, in groups of 1, 2, 3, ..., each in memory of its own."""
    sizes = list(range(1, 20))
    return [part.clone() for part in x.split([*sizes, len(x) - sum(sizes)])]


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [silu, gelu])
@pytest.mark.parametrize("width", [37, 256])
def test_activations(
    activation: Callable[[Tensor], Tensor], width: int, dtype: torch.dtype
) -> None:
    x = tiny.draw(ROWS, width, dtype=dtype) * 3
    whole = activation(x)
    assert torch.equal(whole, on_one_thread(activation, x))
    assert torch.equal(whole, torch.cat([activation(part) for part in pieces(x)]))


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 192), (256, 64), (768, 256)])
def test_linear(shape: tuple[int, int], dtype: torch.dtype) -> None:
    inner, outer = shape
    x, weight = tiny.draw(ROWS, inner, dtype=dtype), tiny.draw(outer, inner, seed=1, dtype=dtype)
    bias = tiny.draw(outer, seed=2, dtype=dtype)
    whole = linear(x, weight, bias)
    assert torch.equal(whole, on_one_thread(lambda rows: linear(rows, weight, bias), x))
    assert torch.equal(whole, torch.cat([linear(part, weight, bias) for part in pieces(x)]))


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_and_modulation(dtype: torch.dtype) -> None:
    x, gain = tiny.draw(ROWS, 64, dtype=dtype), tiny.draw(64, seed=3, dtype=dtype)

    def normed(rows: Tensor) -> Tensor:
        return transformer.modulate(F.rms_norm(rows, (64,), gain, 1e-6), gain[None], gain[None])

    assert torch.equal(normed(x), torch.cat([normed(part) for part in pieces(x)]))


def heads(tokens: int, seed: int, dtype: torch.dtype) -> list[Tensor]:
    return [tiny.draw(tokens, 2, 32, seed=seed + n, dtype=dtype) for n in range(3)]


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_run_of_equal_segments_attends_like_single_ones(dtype: torch.dtype) -> None:
    shapes = [(4, 4, 7)] * 3 + [(3, 5, 40), (1, 1, 1)] + [(9, 9, 12)] * 2
    layout = Layout(tuple(Segment(*shape) for shape in shapes))
    img = heads(sum(layout.patch_lengths), 1, dtype)
    txt = heads(sum(layout.text_lengths), 5, dtype)
    together = transformer.joint_attention(img, txt, layout)
    singles = zip(
        zip(*(x.split(layout.patch_lengths) for x in img), strict=True),
        zip(*(x.split(layout.text_lengths) for x in txt), strict=True),
        layout.segments,
        strict=True,
    )
    alone = [
        transformer.joint_attention([*i], [*t], Layout((segment,))) for i, t, segment in singles
    ]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_images_queries_alone_see_what_they_see_in_joint_attention(dtype: torch.dtype) -> None:
    layout = Layout((Segment(4, 4, 7), Segment(4, 4, 7), Segment(3, 5, 40)))
    img, txt = heads(47, 1, dtype), heads(54, 5, dtype)
    joint = transformer.joint_attention(img, txt, layout)[0]
    alone = transformer.image_attention(img, txt[1:], layout)
    torch.testing.assert_close(alone, joint, atol=1e-6 if dtype == torch.float32 else 1e-2, rtol=0)


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_causal_attention_of_prompts_alone_and_packed(dtype: torch.dtype) -> None:
    lengths = [1, 1, 5, 5, 5, 31, 32, 33, 70]
    q = tiny.draw(sum(lengths), 4, 16, seed=1, dtype=dtype)
    k, v = (tiny.draw(sum(lengths), 2, 16, seed=n, dtype=dtype) for n in (2, 3))
    past = (tiny.draw(34, 2, 16, seed=4, dtype=dtype), tiny.draw(34, 2, 16, seed=5, dtype=dtype))
    together = text_encoder.causal_attention(q, k, v, lengths, past, 0).split(lengths)
    parts = zip(q.split(lengths), k.split(lengths), v.split(lengths), lengths, strict=True)
    alone = [text_encoder.causal_attention(*part[:3], [part[3]], past, 0) for part in parts]
    assert all(map(torch.equal, together, alone))


def test_few_rows_are_filled_up() -> None:
    """The reason for all this: the plain product need not keep the promise below MIN_ROWS."""
    x, weight = tiny.draw(3, 64), tiny.draw(64, 64, seed=1)
    assert linear(x, weight, None).shape == (3, 64)
    assert torch.equal(linear(x, weight, None), F.linear(F.pad(x, (0, 0, 0, 13)), weight)[:3])
    assert MIN_ROWS == 16
