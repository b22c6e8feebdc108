"""The nearest matrix of a given rank, by the singular value decomposition."""

from collections.abc import Sequence

import torch
from torch import Tensor

EXACT_UP_TO = 1024  # the smaller side of a matrix that is decomposed whole
ROUNDS = 4  # power iterations of the randomised decomposition


def nearest(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Slim matrices down [R, in] and up [out, R] of the nearest product, and the energy kept.

    Energy is the sum of squares; 1 keeps all. Both halves get the square root of the singular
    values, so that neither is much larger than the other. Large matrices are decomposed with
    random projections (Halko, Martinsson and Tropp, arXiv 0909.4061), always the same ones.
    """
    small = min(matrix.shape)
    rank = min(rank, small)
    if small <= EXACT_UP_TO or rank > small // 4:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        right = right.T
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            left, values, right = torch.svd_lowrank(matrix, q=rank + 32, niter=ROUNDS)
    return halves(left, values, right, rank, float(matrix.square().sum()))


def nearest_to_products(
    downs: Sequence[Tensor], ups: Sequence[Tensor], rank: int
) -> tuple[Tensor, Tensor, float]:
    """As ``nearest``, for the sum of the products up down, which is never made whole."""
    left, over_left = torch.linalg.qr(torch.cat(list(ups), dim=1))
    right, over_right = torch.linalg.qr(torch.cat(list(downs)).T)
    inner_left, values, inner_right = torch.linalg.svd(over_left @ over_right.T)
    energy = float(values.square().sum())
    return halves(left @ inner_left, values, right @ inner_right.T, rank, energy)


def halves(
    left: Tensor, values: Tensor, right: Tensor, rank: int, energy: float
) -> tuple[Tensor, Tensor, float]:
    kept, root = values[:rank], values[:rank].sqrt()
    up, down = left[:, :rank] * root, (right[:, :rank] * root).T
    share = float(kept.square().sum()) / energy if energy else 1.0
    return down.contiguous(), up.contiguous(), min(share, 1.0)
