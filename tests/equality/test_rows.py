"""What contract 1 stands on: a row's bits depend neither on the other rows nor on the threads.

`models/test_linear.py` and `models/test_activations.py` say the same of their layers.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.models import text_encoder, transformer
from danqing.models.layout import Layout, Segment
from tests import tiny

DTYPES = [torch.float32, torch.bfloat16]
ROWS = 1203  # times the width: enough for the kernels to share it out among threads


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_and_modulation(dtype: torch.dtype) -> None:
    x, gain = tiny.draw(ROWS, 64, dtype=dtype), tiny.draw(64, seed=3, dtype=dtype)

    def normed(rows: Tensor) -> Tensor:
        return transformer.modulate(F.rms_norm(rows, (64,), gain, 1e-6), gain[None], gain[None])

    assert torch.equal(normed(x), torch.cat([normed(part) for part in tiny.pieces(x)]))


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
