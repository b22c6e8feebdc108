from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.models.activations import gelu, silu
from tests import tiny

Activation = Callable[[Tensor], Tensor]
PAIRS = [(silu, F.silu), (gelu, lambda x: F.gelu(x, approximate="tanh"))]
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ours", "torchs"), PAIRS)
def test_values_are_those_of_torch(
    ours: Activation, torchs: Activation, dtype: torch.dtype
) -> None:
    x = torch.linspace(-12, 12, 997).to(dtype)
    found = ours(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, torchs(x))


@pytest.mark.parametrize(("ours", "torchs"), PAIRS)
def test_gradients_are_those_of_torch(ours: Activation, torchs: Activation) -> None:
    x, y = (torch.linspace(-5, 5, 101).requires_grad_() for _ in range(2))
    ours(x).square().sum().backward()
    torchs(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize(("ours", "torchs"), PAIRS)
def test_the_ends_are_finite_and_nan_stays(ours: Activation, torchs: Activation) -> None:
    found = ours(torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4, float("nan")]))
    assert found[:5].tolist() == [0, 0, 0, 100, 10000]
    assert found[5].isnan()


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [silu, gelu])
@pytest.mark.parametrize("width", [37, 256])
def test_rows_are_independent_of_company_and_threads(
    activation: Activation, width: int, dtype: torch.dtype
) -> None:
    x = tiny.draw(413, width, dtype=dtype) * 3
    whole = activation(x)
    assert torch.equal(whole, torch.cat([activation(part) for part in tiny.pieces(x)]))
    torch.set_num_threads(1)
    assert torch.equal(whole, activation(x))
