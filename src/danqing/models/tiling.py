"""Encoding and decoding in overlapping tiles, for pictures whose activations do not fit in memory.

The tiles, their blending and its order are the reference's (AutoencoderKLQwenImage): each tile is
blended with the already blended one above, then with the one to its left. Every tile has its own
zero padding and its own attention, so the result is close to the whole one and not equal to it.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from danqing.models.vae import VAE, split_moments

TILE = 256  # pixels
STRIDE = 192


def encode_tiled(vae: VAE, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance, as ``VAE.encode``."""
    factor = vae.config.factor
    rows, columns = (n // factor for n in image_BCHW.shape[-2:])
    tile, stride = TILE // factor, STRIDE // factor
    tiles = [[vae.encode_raw(part) for part in row] for row in cut(image_BCHW, TILE, STRIDE)]
    return split_moments(merge(tiles, tile - stride, stride)[..., :rows, :columns])


def decode_tiled(vae: VAE, latent_BCYX: Tensor) -> Tensor:
    """The image, as ``VAE.decode``, clamped (the reference leaves its tiled output unclamped)."""
    return decode_tiled_raw(vae, latent_BCYX).clamp(-1.0, 1.0)


def decode_tiled_raw(vae: VAE, latent_BCYX: Tensor) -> Tensor:
    """The blended tiles before the clamp, as ``VAE.decode_raw``."""
    factor = vae.config.factor
    height, width = (n * factor for n in latent_BCYX.shape[-2:])
    parts = cut(latent_BCYX, TILE // factor, STRIDE // factor)
    tiles = [[vae.decode_raw(part) for part in row] for row in parts]
    return merge(tiles, TILE - STRIDE, STRIDE)[..., :height, :width]


def cut(x: Tensor, tile: int, stride: int) -> Iterator[list[Tensor]]:
    """Rows of tiles that start at every multiple of the stride; the last ones may be small."""
    height, width = x.shape[-2:]
    for top in range(0, height, stride):
        band = x[..., top : top + tile, :]
        yield [band[..., left : left + tile] for left in range(0, width, stride)]


def merge(tiles: list[list[Tensor]], extent: int, stride: int) -> Tensor:
    """Blend neighbours over ``extent`` and lay the tiles' first ``stride`` rows and columns out."""
    bands = []
    for i, row in enumerate(tiles):
        for j, tile in enumerate(row):
            if i:
                blend(tiles[i - 1][j], tile, extent, lambda x: x)
            if j:
                blend(row[j - 1], tile, extent, lambda x: x.transpose(-1, -2))
        bands.append(torch.cat([tile[..., :stride, :stride] for tile in row], dim=-1))
    return torch.cat(bands, dim=-2)


def blend(before: Tensor, tile: Tensor, extent: int, view: Callable[[Tensor], Tensor]) -> None:
    """Fade from the last rows (in ``view``) of ``before`` into the first ones of ``tile``."""
    before, tile = view(before), view(tile)
    extent = min(before.shape[-2], tile.shape[-2], extent)
    share = (torch.arange(extent, device=tile.device) / extent)[:, None].to(tile.dtype)
    head = tile[..., :extent, :]
    head.copy_(before[..., -extent:, :] * (1 - share) + head * share)
