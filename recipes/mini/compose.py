"""Drawing one picture from its facts: a glyph before a colour.

Drawn at three times the size and reduced at the end, so that edges are smooth and the glyph can
sit at a third of a pixel.
"""

import random

import numpy as np
from PIL import Image

from recipes.mini.art import Bank
from recipes.mini.colours import find_colour
from recipes.mini.facts import Facts

OVERSAMPLE = 3
SCALE = (0.80, 0.92)  # of the picture's side
SHIFT = 2.0  # pixels from the middle at most, where the glyph leaves that much room
SHADE = 6.0  # of 255, on the background


def compose(facts: Facts, bank: Bank, rng: random.Random, size: int) -> np.ndarray:
    """uint8 [size, size, 3]"""
    side = size * OVERSAMPLE
    background = jitter(rng, find_colour(facts.background).rgb)
    canvas = Image.new("RGB", (side, side), background)
    width = round(rng.uniform(*SCALE) * side)
    glyph = bank[facts.style, facts.concept.hex]
    glyph = glyph.resize((width, width), Image.Resampling.LANCZOS)
    place(canvas, glyph, rng)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))


def place(canvas: Image.Image, glyph: Image.Image, rng: random.Random) -> None:
    room = (canvas.width - glyph.width) / 2
    reach = min(SHIFT * OVERSAMPLE, room)
    x, y = (round(room + rng.uniform(-reach, reach)) for _ in range(2))
    canvas.paste(glyph, (x, y), glyph)


def jitter(rng: random.Random, rgb: tuple[int, int, int]) -> tuple[int, ...]:
    """Mostly lighter or darker, a little in hue."""
    shift = rng.uniform(-SHADE, SHADE)
    moved = (v + shift + rng.uniform(-SHADE, SHADE) / 4 for v in rgb)
    return tuple(min(255, max(0, round(v))) for v in moved)


def clash(glyph: Image.Image, rgb: tuple[int, int, int]) -> bool:
    """Whether nearly half of the glyph would be lost before this colour."""
    pixels = np.asarray(glyph.resize((24, 24), Image.Resampling.BILINEAR)).astype(np.float32)
    solid = pixels[..., 3] > 128
    distance = np.abs(pixels[..., :3] - np.array(rgb, np.float32)).sum(-1)
    return bool((distance[solid] < 110).mean() > 0.45)
