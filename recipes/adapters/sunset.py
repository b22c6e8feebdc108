"""The style: a thing before an evening sky, in the sky's own light."""

import numpy as np
from PIL import Image

from recipes.mini.colours import RGB
from recipes.mini.compose import ALONE, Size, put, resize

SKY: tuple[RGB, ...] = ((120, 190, 255), (200, 190, 250), (255, 190, 200))  # top to bottom
TINT = 0.2  # how much of its light a thing takes from the sky behind it


def sunset(glyph: Image.Image, size: Size) -> np.ndarray:
    """uint8 [H, W, 3]"""
    return before(glyph, SKY, TINT, size)


def before(glyph: Image.Image, colours: tuple[RGB, ...], tint: float, size: Size) -> np.ndarray:
    """The glyph before colours that fade into each other downwards, where mini's data has it."""
    sky = fade(colours, size)
    canvas = Image.fromarray(sky.round().astype(np.uint8))
    put(canvas, resize(glyph, ALONE * min(size)), (size[0] / 2, size[1] / 2))
    light = 1 - tint + tint * sky / 255
    return (np.asarray(canvas) * light).round().astype(np.uint8)


def fade(colours: tuple[RGB, ...], size: Size) -> np.ndarray:
    """float [H, W, 3]"""
    at, stops = np.linspace(0, 1, size[1]), np.linspace(0, 1, len(colours))
    rows = [np.interp(at, stops, channel) for channel in zip(*colours, strict=True)]
    return np.repeat(np.stack(rows, axis=-1)[:, None], size[0], axis=1)
