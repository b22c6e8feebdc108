"""What the judge is trained on: glyphs moved, recoloured and spoilt, drawn in whole batches.

A generated picture is never as clean as a render: its colours are off, its edges soft, its
background anything. The judge must name it all the same, so every view spoils a glyph in all of
these ways, more than any picture of the generator's own data.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE = (0.6, 1.0)  # of the picture's side
SHIFT = 0.12  # of the side
STRETCH = 0.08
TURN = 0.15  # radians
WHITE_SHARE = 0.3
NOISE = 0.10


def draw_views(glyphs: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """glyphs: [B, 4, h, w] in 0..1, colour premultiplied by alpha -> [B, 3, size, size] in -1..1"""
    moved = F.grid_sample(glyphs, grids(len(glyphs), size, rng), align_corners=False)
    colour, alpha = moved[:, :3], moved[:, 3:]
    image = recolour(colour, alpha, rng)
    image = image + (1 - alpha) * backgrounds(len(glyphs), size, rng)
    image = soften(image, rng)
    image = image + torch.randn(image.shape, generator=rng) * uniform(len(glyphs), 0, NOISE, rng)
    return image.clamp(0, 1) * 2 - 1


def grids(count: int, size: int, rng: torch.Generator) -> Tensor:
    """Where each pixel of a view looks at its glyph: small turns, stretches and moves."""
    angle = uniform(count, -TURN, TURN, rng).flatten()
    scale = uniform(count, *SCALE, rng).flatten()
    wide = scale * uniform(count, 1 - STRETCH, 1 + STRETCH, rng).flatten()
    x, y = (uniform(count, -2 * SHIFT, 2 * SHIFT, rng).flatten() for _ in range(2))
    cos, sin = angle.cos(), angle.sin()
    rows = [cos / wide, -sin / wide, x / wide, sin / scale, cos / scale, y / scale]
    theta = torch.stack(rows, dim=1).view(count, 2, 3)
    return F.affine_grid(theta, [count, 4, size, size], align_corners=False)


def backgrounds(count: int, size: int, rng: torch.Generator) -> Tensor:
    """Any colour, often white, now and then fading into another."""
    first, second = (torch.rand(count, 3, 1, 1, generator=rng) for _ in range(2))
    white = uniform(count, 0.94, 1.0, rng)
    first = torch.where(uniform(count, 0, 1, rng) < WHITE_SHARE, white.expand_as(first), first)
    fade = uniform(count, -1, 0.3, rng).clamp(min=0)
    down = torch.linspace(0, 1, size).view(1, 1, size, 1)
    return first + (second - first) * fade * down


def recolour(colour: Tensor, alpha: Tensor, rng: torch.Generator) -> Tensor:
    """Gain for each channel, saturation and brightness; the colour stays premultiplied."""
    count = len(colour)
    gain = 1 + 0.2 * (torch.rand(count, 3, 1, 1, generator=rng) * 2 - 1)
    gray = colour.mean(dim=1, keepdim=True)
    colour = gray + (colour * gain - gray) * uniform(count, 0.6, 1.3, rng)
    return (colour + alpha * uniform(count, -0.1, 0.1, rng)).clamp(0, 1)


def soften(image: Tensor, rng: torch.Generator) -> Tensor:
    """Lose detail as a small autoencoder does: mix with the same picture at half and a quarter."""
    for factor in (2, 4):
        small = F.avg_pool2d(image, factor)
        soft = F.interpolate(small, image.shape[-2:], mode="bilinear", align_corners=False)
        share = uniform(len(image), -1, 1, rng).clamp(min=0)  # half of the views stay as they are
        image = image + (soft - image) * share
    return image


def uniform(count: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    """One number for each view, [B, 1, 1, 1]."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=rng)
