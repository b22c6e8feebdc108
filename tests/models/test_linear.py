"""The promise of `Linear` on the machine at hand: a row's bits are its own."""

import pytest
import torch
from torch.nn import functional as F

from danqing.models.linear import MIN_ROWS, Linear, linear
from tests import tiny

ROWS = 203


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inner", "outer"), [(64, 192), (256, 64), (768, 256)])
def test_rows_are_independent_of_company_and_threads(
    inner: int, outer: int, dtype: torch.dtype
) -> None:
    x, weight = tiny.draw(ROWS, inner, dtype=dtype), tiny.draw(outer, inner, seed=1, dtype=dtype)
    bias = tiny.draw(outer, seed=2, dtype=dtype)
    whole = linear(x, weight, bias)
    parts = [linear(part, weight, bias) for part in tiny.pieces(x)]
    assert torch.equal(whole, torch.cat(parts))
    torch.set_num_threads(1)
    assert torch.equal(whole, linear(x, weight, bias))


@pytest.mark.parametrize("rows", [1, 15, 16, 17])
def test_it_is_the_plain_product_but_for_rounding(rows: int) -> None:
    layer, x = Linear(64, 32), tiny.draw(rows, 64)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_few_rows_are_filled_up_with_zeros() -> None:
    x, weight = tiny.draw(3, 64), tiny.draw(64, 64, seed=1)
    filled = torch.cat([x, torch.zeros(MIN_ROWS - 3, 64)])
    assert torch.equal(linear(x, weight, None), F.linear(filled, weight)[:3])


def test_gradients_pass_through_the_filling() -> None:
    x = tiny.draw(3, 64).requires_grad_()
    linear(x, tiny.draw(32, 64, seed=1), None).sum().backward()
    torch.testing.assert_close(x.grad, tiny.draw(32, 64, seed=1).sum(dim=0).expand(3, -1))
