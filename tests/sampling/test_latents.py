import pytest
import torch

from danqing.sampling.latents import pack, unpack
from tests import tiny


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (8, 2)])
def test_packing_inverts(rows: int, columns: int) -> None:
    latent = tiny.draw(16, 2 * rows, 2 * columns)
    patches = pack(latent)
    assert patches.shape == (rows * columns, 64)
    assert torch.equal(unpack(patches, rows, columns), latent)


def test_channels_lie_in_the_order_c_dy_dx() -> None:
    latent = torch.arange(2 * 4 * 6).view(2, 4, 6)
    rows = [[c * 24 + (2 + dy) * 6 + 4 + dx for dy in (0, 1) for dx in (0, 1)] for c in (0, 1)]
    assert pack(latent)[1 * 3 + 2].tolist() == rows[0] + rows[1]


def test_patches_lie_in_the_order_rows_columns() -> None:
    latent = torch.arange(4 * 6).view(1, 4, 6)
    assert pack(latent)[:, 0].tolist() == [0, 2, 4, 12, 14, 16]
