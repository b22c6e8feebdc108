"""The style: a thing before an evening sky, in the sky's own light."""

import random

import numpy as np
from PIL import Image

from recipes.mini.compose import OVERSAMPLE, SCALE, place

# From the top of the picture to its bottom.
SKY = ((120, 190, 255), (200, 190, 250), (255, 190, 200))
TINT = 0.2  # how much of its light a thing takes from the sky behind it


def sunset(glyph: Image.Image, rng: random.Random, size: int) -> np.ndarray:
    """uint8 [size, size, 3]"""
    return before(glyph, SKY, TINT, rng, size)


def before(
    glyph: Image.Image,
    colours: tuple[tuple[int, ...], ...],
    tint: float,
    rng: random.Random,
    size: int,
) -> np.ndarray:
    """The glyph before colours that fade into each other downwards, where mini's data has it."""
    side = size * OVERSAMPLE
    canvas = Image.fromarray(fade(colours, side).round().astype(np.uint8))
    width = round(rng.uniform(*SCALE) * side)
    place(canvas, glyph.resize((width, width), Image.Resampling.LANCZOS), rng)
    drawn = np.asarray(canvas.resize((size, size), Image.Resampling.BOX))
    light = 1 - tint + tint * fade(colours, size) / 255
    return (drawn * light).round().astype(np.uint8)


def fade(colours: tuple[tuple[int, ...], ...], side: int) -> np.ndarray:
    """float [side, side, 3]"""
    at, stops = np.linspace(0, 1, side), np.linspace(0, 1, len(colours))
    rows = [np.interp(at, stops, channel) for channel in zip(*colours, strict=True)]
    return np.repeat(np.stack(rows, axis=-1)[:, None], side, axis=1)
