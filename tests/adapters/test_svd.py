import pytest
import torch
from torch import Tensor

from danqing.adapters import svd
from tests.tiny import draw


def low(out: int, width: int, rank: int) -> Tensor:
    return draw(out, rank) @ draw(rank, width, seed=1)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30)])
@pytest.mark.parametrize("rank", [1, 7, 24])
def test_nearest_is_the_truncated_decomposition(shape: tuple[int, int], rank: int) -> None:
    matrix = draw(*shape).double()
    down, up, energy = svd.nearest(matrix, rank)
    values = torch.linalg.svdvals(matrix)
    assert (down.shape, up.shape) == ((rank, shape[1]), (shape[0], rank))
    missed = (matrix - up @ down).square().sum()
    torch.testing.assert_close(missed, values[rank:].square().sum(), rtol=1e-9, atol=1e-9)
    assert energy == pytest.approx(float(1 - missed / matrix.square().sum()), abs=1e-9)


def test_a_rank_above_the_matrix_is_its_own() -> None:
    down, up, energy = svd.nearest(draw(6, 9), 40)
    assert (down.shape, up.shape) == ((6, 9), (6, 6))
    assert energy == pytest.approx(1.0)


def test_large_matrices_are_decomposed_by_projections_and_come_near(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix = low(300, 200, 12) + 0.05 * draw(300, 200, seed=2)
    exact = svd.nearest(matrix, 12)
    monkeypatch.setattr(svd, "EXACT_UP_TO", 64)
    before = torch.random.get_rng_state()
    down, up, energy = svd.nearest(matrix, 12)
    assert energy == pytest.approx(exact[2], rel=1e-5)
    torch.testing.assert_close(up @ down, exact[1] @ exact[0], rtol=0, atol=1e-3)
    assert torch.equal(down, svd.nearest(matrix, 12)[0])  # the same at every call
    assert torch.equal(before, torch.random.get_rng_state())


def test_products_are_summed_without_their_matrix() -> None:
    downs = [draw(3, 50, seed=n).double() for n in range(3)]
    ups = [draw(40, 3, seed=9 + n).double() for n in range(3)]
    whole = sum((up @ down for up, down in zip(ups, downs, strict=True)), torch.zeros(40, 50))
    for rank in (2, 5, 9):
        down, up, energy = svd.nearest_to_products(downs, ups, rank)
        expected = svd.nearest(whole, rank)
        torch.testing.assert_close(up @ down, expected[1] @ expected[0], rtol=0, atol=1e-9)
        assert energy == pytest.approx(expected[2], abs=1e-9)


def test_nothing_keeps_all_of_its_energy() -> None:
    down, up, energy = svd.nearest(torch.zeros(5, 4), 2)
    assert energy == 1.0
    assert not (up @ down).any()


def test_both_halves_are_of_one_size() -> None:
    down, up, _ = svd.nearest(1000 * low(30, 20, 4), 4)
    torch.testing.assert_close(down.norm(), up.norm())
