"""Muon's orthogonalisation, against the textbook iteration and the singular values."""

import pytest
import torch
from torch import Tensor

from recipes.mini.muon import COEFFICIENTS, Muon, orthogonalise


def plain(matrix: Tensor, iterations: int) -> Tensor:
    """The iteration as published, on the whole (wide) matrix."""
    a, b, c = COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(64, 64), (64, 160), (160, 64)])
def test_singular_values_come_close_to_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrix[None], 5)[0])
    # The published coefficients settle between 0.68 and 1.21; the smallest values may lag.
    assert values.max() < 1.25
    assert values.median() > 0.65


def test_gram_form_equals_the_published_one() -> None:
    matrices = torch.randn(3, 48, 96, generator=torch.Generator().manual_seed(2))
    expected = torch.stack([plain(matrix, 5) for matrix in matrices])
    for own, right in ((matrices, expected), (matrices.mT, expected.mT)):
        torch.testing.assert_close(orthogonalise(own, 5), right, atol=1e-4, rtol=1e-4)


def test_a_step_has_the_size_that_the_rate_says() -> None:
    """Whatever the gradient's own size: rate 0.2 sqrt(longer side) in every direction."""
    weight = torch.nn.Parameter(torch.zeros(32, 64))
    weight.grad = 1e-3 * torch.randn(32, 64, generator=torch.Generator().manual_seed(3))
    Muon([weight], lr=0.01).step()
    moved = weight.detach()
    assert (moved * weight.grad).sum() < 0
    values = torch.linalg.svdvals(moved) / (0.01 * 0.2 * 64**0.5)
    assert 0.65 < values.median() < 1.25
    assert values.max() < 1.25


def test_a_kernel_moves_as_the_matrix_of_its_outputs() -> None:
    grad = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(4))
    kernel, matrix = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((8, 4, 3, 3), (8, 36)))
    kernel.grad, matrix.grad = grad, grad.flatten(1)
    Muon([kernel, matrix], lr=0.01).step()
    assert torch.equal(kernel.detach().flatten(1), matrix.detach())
