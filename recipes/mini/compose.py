"""Drawing one picture from its facts: glyphs before a colour or a landscape.

All lengths are shares of the picture's shorter side, so that a thing is as large in a wide picture
as in a square one.

Where a thing may stand is not for chance. Pairs, counts, places and landscapes put things of one
size into cells of half the shorter side, on a grid of a quarter (32 pixels of 128: one patch of
mini). So one drawing looks the same to the transformer wherever it stands, and what it learns of it
in one arrangement holds for all others.
"""

import random

import numpy as np
from PIL import Image

from recipes.mini.art import Glyphs
from recipes.mini.colours import COLOURS, RGB
from recipes.mini.concepts import Concept
from recipes.mini.facts import Facts, Ground
from recipes.mini.scenes import SCENES, fade, paint_scene
from recipes.mini.styles import find_style

Size = tuple[int, int]  # width, height, as everywhere
Spot = tuple[float, float]
ALONE = 0.75
SIZES_DRAWN = {"small": 0.27, "medium": 0.53, "large": 0.97}
IN_CELL = 0.44
CELL = 0.5
FLIPPED = ("animal", "plant", "food")  # the others may carry writing
FLIP_SHARE = 0.3
SHADE = 6.0  # of 255
STEP = {"left": -1, "right": 1, "top": -1, "bottom": 1}

# Where each of 2 to 5 stands, and how large: in a square and in a wide picture (tall: turned).
SQUARE = {
    2: (IN_CELL, [(1 / 4, 1 / 2), (3 / 4, 1 / 2)]),
    3: (IN_CELL, [(1 / 2, 1 / 4), (1 / 4, 3 / 4), (3 / 4, 3 / 4)]),
    4: (IN_CELL, [(1 / 4, 1 / 4), (3 / 4, 1 / 4), (1 / 4, 3 / 4), (3 / 4, 3 / 4)]),
    5: (0.3, [(0.19, 0.19), (0.81, 0.19), (0.5, 0.5), (0.19, 0.81), (0.81, 0.81)]),
}
WIDE = {
    2: (IN_CELL, [(1 / 3, 1 / 2), (2 / 3, 1 / 2)]),
    3: (IN_CELL, [(1 / 6, 1 / 2), (1 / 2, 1 / 2), (5 / 6, 1 / 2)]),
    4: (IN_CELL, [(1 / 3, 1 / 4), (2 / 3, 1 / 4), (1 / 3, 3 / 4), (2 / 3, 3 / 4)]),
    5: (IN_CELL, [(1 / 6, 1 / 4), (1 / 2, 1 / 4), (5 / 6, 1 / 4), (1 / 3, 3 / 4), (2 / 3, 3 / 4)]),
}


def compose(facts: Facts, bank: Glyphs, rng: random.Random, size: Size) -> np.ndarray:
    """uint8 [H, W, 3]"""
    canvas = paint_ground(facts.ground, rng, size)
    flip = facts.concept.kind in FLIPPED and rng.random() < FLIP_SHARE
    for concept, scale, spot in layout(facts, size):
        tint = facts.tint if concept is facts.concept else None
        glyph = draw_glyph(bank, facts.style, concept, tint, rng, scale * min(size))
        if flip and concept is facts.concept:
            glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        put(canvas, glyph, spot)
    return np.asarray(canvas)


def paint_ground(ground: Ground, rng: random.Random, size: Size) -> Image.Image:
    if ground.scene:
        return paint_scene(ground.scene, rng, *size)
    top = jitter(rng, COLOURS[ground.colour].rgb)
    if ground.fade is None:
        return Image.new("RGB", size, top)
    return fade(*size, top, jitter(rng, COLOURS[ground.fade].rgb))


def layout(facts: Facts, size: Size) -> list[tuple[Concept, float, Spot]]:
    """What is drawn: which, how large, and where its middle is in pixels."""
    if facts.other:
        first, second = pair(facts, size)
        return [(facts.concept, IN_CELL, first), (facts.other, IN_CELL, second)]
    if facts.count > 1:
        scale, spots = several(facts.count, size)
        return [(facts.concept, scale, spot) for spot in spots]
    if facts.place:
        return [(facts.concept, IN_CELL, placed(facts.place, size))]
    if scene := facts.ground.scene:
        stands = SCENES[scene].stands
        return [(facts.concept, IN_CELL, placed("bottom" if stands else "center", size))]
    scale = SIZES_DRAWN[facts.size] if facts.size else ALONE
    return [(facts.concept, scale, placed("center", size))]


def placed(place: str, size: Size) -> Spot:
    """The middle of the cell at an edge, at a corner or in the centre."""
    reach = [(side - CELL * min(size)) / 2 for side in size]
    words = place.split()
    x = sum(STEP[w] for w in words if w in ("left", "right"))
    y = sum(STEP[w] for w in words if w in ("top", "bottom"))
    return size[0] / 2 + x * reach[0], size[1] / 2 + y * reach[1]


def several(count: int, size: Size) -> tuple[float, list[Spot]]:
    width, height = size
    scale, spots = (SQUARE if width == height else WIDE)[count]
    turned = [(y, x) for x, y in spots] if height > width else spots
    return scale, [(x * width, y * height) for x, y in turned]


def pair(facts: Facts, size: Size) -> tuple[Spot, Spot]:
    """Side by side, before a landscape that has land upon it; or one above the other."""
    sideways = facts.relation in ("left", "right")
    across, along = size if sideways else size[::-1]
    near = across / 2 - CELL / 2 * min(size)
    scene = facts.ground.scene
    stands = sideways and scene and SCENES[scene].stands
    level = placed("bottom", size)[1] if stands else along / 2
    ends = [(near, level), (across - near, level)]
    spots = ends if sideways else [(y, x) for x, y in ends]
    first, second = spots if facts.relation in ("left", "above") else spots[::-1]
    return first, second


def draw_glyph(
    bank: Glyphs, style: str, concept: Concept, tint: str | None, rng: random.Random, side: float
) -> Image.Image:
    """The glyph with its longer side ``side`` pixels, dyed where asked for."""
    glyph = resize(bank[style, concept.hex], side)
    if find_style(style).mono:
        return recolour(glyph, jitter(rng, COLOURS[tint or "black"].rgb))
    return dye(glyph, jitter(rng, COLOURS[tint].rgb)) if tint else glyph


def resize(glyph: Image.Image, side: float) -> Image.Image:
    """With its longer side ``side`` pixels."""
    longer = max(glyph.size)
    width, height = (max(1, round(v / longer * side)) for v in glyph.size)
    return glyph.resize((width, height), Image.Resampling.LANCZOS)


def recolour(glyph: Image.Image, rgb: RGB) -> Image.Image:
    flat = Image.new("RGBA", glyph.size, rgb)
    flat.putalpha(glyph.getchannel("A"))
    return flat


def dye(glyph: Image.Image, rgb: RGB) -> Image.Image:
    """The same shading in one colour: from its dark tone over itself to its light tone."""
    pixels = np.asarray(glyph).astype(np.float32)
    light = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    solid = pixels[..., 3] > 128
    low, high = np.percentile(light[solid], [5, 95]) if solid.any() else (0.0, 255.0)
    share = np.clip((light - low) / max(high - low, 40.0), 0, 1)[..., None]
    colour = np.array(rgb, np.float32)
    dark, pale = colour * 0.4, colour + (255 - colour) * 0.4
    upper = colour + (pale - colour) * ((share - 0.6) / 0.4)
    pixels[..., :3] = np.where(share < 0.6, dark + (colour - dark) * (share / 0.6), upper)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def put(canvas: Image.Image, glyph: Image.Image, spot: Spot) -> None:
    """Pasted by its middle, and never cut by the edge."""
    free = [c - g for c, g in zip(canvas.size, glyph.size, strict=True)]
    corners = [round(s - g / 2) for s, g in zip(spot, glyph.size, strict=True)]
    x, y = (min(max(c, 0), max(f, 0)) for c, f in zip(corners, free, strict=True))
    canvas.paste(glyph, (x, y), glyph)


def jitter(rng: random.Random, rgb: RGB) -> RGB:
    """Mostly lighter or darker, a little in hue."""
    shift = rng.uniform(-SHADE, SHADE)
    red, green, blue = (
        min(255, max(0, round(v + shift + rng.uniform(-SHADE, SHADE) / 4))) for v in rgb
    )
    return red, green, blue
