"""Drawing one picture from its facts: glyphs before a colour or a landscape.

All lengths are shares of the picture's shorter side, so that a thing is as large in a wide picture
as in a square one.
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
ALONE = (0.64, 0.84)
SIZES_DRAWN = {"small": (0.24, 0.32), "medium": (0.5, 0.58), "large": (0.93, 1.0)}
PLACED = (0.36, 0.44)
STANDING = (0.42, 0.56)
MARGIN = 0.05  # between a placed thing and the edge
STRETCH = 0.03
FLIPPED = ("animal", "plant", "food")  # the others may carry writing
FLIP_SHARE = 0.3
SHADE = 6.0  # of 255
STEP = {"left": -1, "right": 1, "top": -1, "bottom": 1}

# Where each of 2 to 5 stands, and how large: in a square and in a wide picture (tall: turned).
SQUARE = {
    2: (0.41, [(0.27, 0.5), (0.73, 0.5)]),
    3: (0.40, [(0.5, 0.27), (0.27, 0.73), (0.73, 0.73)]),
    4: (0.40, [(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)]),
    5: (0.31, [(0.2, 0.2), (0.8, 0.2), (0.5, 0.5), (0.2, 0.8), (0.8, 0.8)]),
}
WIDE = {
    2: (0.60, [(0.27, 0.5), (0.73, 0.5)]),
    3: (0.44, [(0.18, 0.5), (0.5, 0.5), (0.82, 0.5)]),
    4: (0.42, [(0.28, 0.26), (0.72, 0.26), (0.28, 0.74), (0.72, 0.74)]),
    5: (0.40, [(0.18, 0.27), (0.5, 0.27), (0.82, 0.27), (0.34, 0.74), (0.66, 0.74)]),
}


def compose(facts: Facts, bank: Glyphs, rng: random.Random, size: Size) -> np.ndarray:
    """uint8 [H, W, 3]"""
    canvas, horizon = paint_ground(facts.ground, rng, size)
    flip = facts.concept.kind in FLIPPED and rng.random() < FLIP_SHARE
    for concept, scale, spot in layout(facts, rng, size, horizon):
        tint = facts.tint if concept is facts.concept else None
        glyph = draw_glyph(bank, facts.style, concept, tint, rng, scale * min(size))
        if flip and concept is facts.concept:
            glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        put(canvas, glyph, spot)
    return np.asarray(canvas)


def paint_ground(ground: Ground, rng: random.Random, size: Size) -> tuple[Image.Image, int]:
    """The background, and the row where its land begins."""
    if ground.scene:
        return paint_scene(ground.scene, rng, *size)
    top = jitter(rng, COLOURS[ground.colour].rgb)
    if ground.fade is None:
        return Image.new("RGB", size, top), size[1]
    return fade(*size, top, jitter(rng, COLOURS[ground.fade].rgb)), size[1]


def layout(
    facts: Facts, rng: random.Random, size: Size, horizon: int
) -> list[tuple[Concept, float, Spot]]:
    """What is drawn: which, how large, and where its middle is in pixels."""
    if facts.other:
        return pair(facts, rng, size, horizon)
    if facts.count > 1:
        return several(facts, rng, size)
    scale = rng.uniform(*SIZES_DRAWN[facts.size] if facts.size else ALONE)
    spot = (size[0] / 2, size[1] / 2)
    if facts.place:
        scale = rng.uniform(*PLACED)
        spot = corner(facts.place, scale, size)
    elif facts.ground.scene:
        scale = rng.uniform(*STANDING)
        spot = stand(facts.ground.scene, rng.uniform(0.36, 0.64), scale, size, horizon)
    return [(facts.concept, scale, shake(rng, spot, size, 0.02))]


def corner(place: str, scale: float, size: Size) -> Spot:
    """The middle of a thing that stands at an edge, at a corner or in the centre."""
    reach = [side / 2 - (scale / 2 + MARGIN) * min(size) for side in size]
    words = place.split()
    x = sum(STEP[w] for w in words if w in ("left", "right"))
    y = sum(STEP[w] for w in words if w in ("top", "bottom"))
    return size[0] / 2 + x * reach[0], size[1] / 2 + y * reach[1]


def stand(scene: str, x: float, scale: float, size: Size, horizon: int) -> Spot:
    """On the land, its foot a little below the horizon; in the air, in the middle."""
    if not SCENES[scene].stands:
        return x * size[0], 0.5 * size[1]
    foot = min(0.94 * size[1], horizon + 0.24 * size[1])
    return x * size[0], foot - scale / 2 * min(size)


def several(facts: Facts, rng: random.Random, size: Size) -> list[tuple[Concept, float, Spot]]:
    width, height = size
    scale, spots = (SQUARE if width == height else WIDE)[facts.count]
    scale *= rng.uniform(0.9, 1.0)
    turned = [(y, x) for x, y in spots] if height > width else spots
    places = [shake(rng, (x * width, y * height), size, 0.012) for x, y in turned]
    return [(facts.concept, scale, place) for place in places]


def pair(
    facts: Facts, rng: random.Random, size: Size, horizon: int
) -> list[tuple[Concept, float, Spot]]:
    assert facts.other is not None
    assert facts.relation is not None
    width, height = size
    sideways = facts.relation in ("left", "right")
    long = max(1.0, (width if sideways else height) / min(size))
    scales = [rng.uniform(0.38, 0.44) * min(long, 1.3) for _ in range(2)]
    first, second = (0.26, 0.74) if facts.relation in ("left", "above") else (0.74, 0.26)
    spots = [(first, 0.5), (second, 0.5)] if sideways else [(0.5, first), (0.5, second)]
    pixels = [(x * width, y * height) for x, y in spots]
    if facts.ground.scene and sideways:
        things = zip(spots, scales, strict=True)
        pixels = [stand(facts.ground.scene, x, s, size, horizon) for (x, _), s in things]
    places = [shake(rng, pixel, size, 0.012) for pixel in pixels]
    return list(zip((facts.concept, facts.other), scales, places, strict=True))


def shake(rng: random.Random, spot: Spot, size: Size, reach: float) -> Spot:
    x, y = (v + rng.uniform(-reach, reach) * min(size) for v in spot)
    return x, y


def draw_glyph(
    bank: Glyphs, style: str, concept: Concept, tint: str | None, rng: random.Random, side: float
) -> Image.Image:
    """The glyph with its longer side ``side`` pixels, dyed where asked for."""
    glyph = bank[style, concept.hex]
    longer = max(glyph.size)
    width, height = (
        max(1, round(v / longer * side * rng.uniform(1 - STRETCH, 1))) for v in glyph.size
    )
    glyph = glyph.resize((width, height), Image.Resampling.LANCZOS)
    if find_style(style).mono:
        return recolour(glyph, jitter(rng, COLOURS[tint or "black"].rgb))
    return dye(glyph, jitter(rng, COLOURS[tint].rgb)) if tint else glyph


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
