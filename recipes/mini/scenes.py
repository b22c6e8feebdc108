"""Simple landscapes: what captions call them and how they are painted.

Each painter draws on a canvas of twice the picture's size, which is then halved: smooth edges for
little.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from recipes.mini.colours import RGB

OVERSAMPLE = 2
HORIZON = (0.56, 0.68)  # of the height, downwards; the street of a city begins lower


@dataclass(frozen=True)
class Scene:
    """``en[i]`` and ``zh[i]`` translate each other; the names are for lists of keywords.

    ``behind``: the colours that a thing is seen before; ``stands``: on the land, or it floats.
    """

    en: tuple[str, ...]
    zh: tuple[str, ...]
    name_en: str
    name_zh: str
    behind: tuple[RGB, ...]
    stands: bool
    paint: Callable[[random.Random, int, int, int], Image.Image]


def paint_scene(name: str, rng: random.Random, width: int, height: int) -> Image.Image:
    w, h = width * OVERSAMPLE, height * OVERSAMPLE
    horizon = round(h * rng.uniform(*HORIZON))
    image = SCENES[name].paint(rng, w, h, horizon)
    return image.reduce(OVERSAMPLE)


def fade(width: int, height: int, top: RGB, bottom: RGB) -> Image.Image:
    """From one colour at the top to another at the bottom."""
    share = np.linspace(0, 1, height)[:, None]
    column = np.array(top) * (1 - share) + np.array(bottom) * share
    return Image.fromarray(column.round().astype(np.uint8)[:, None]).resize((width, height), 0)


def halves(width: int, height: int, horizon: int, sky: tuple[RGB, RGB], land: tuple[RGB, RGB]):
    image = Image.new("RGB", (width, height))
    image.paste(fade(width, horizon, *sky))
    image.paste(fade(width, height - horizon, *land), (0, horizon))
    return image, ImageDraw.Draw(image)


def dots(draw: ImageDraw.ImageDraw, rng: random.Random, size: tuple[int, int], **look) -> None:
    """Stars and snowflakes; their size follows the picture's shorter side."""
    unit = min(size) / 256
    for _ in range(look["count"] * size[0] * size[1] // min(size) ** 2):
        x, y, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), unit * rng.choice(look["radii"])
        draw.ellipse([x - r, y - r, x + r, y + r], fill=look["fill"])


def snow(rng: random.Random, w: int, h: int, horizon: int) -> Image.Image:
    sky, land = ((150, 180, 210), (205, 220, 235)), ((250, 252, 255), (224, 234, 246))
    image, draw = halves(w, h, horizon, sky, land)
    draw.ellipse([-w * 0.3, horizon - h * 0.05, w * 0.8, h * 1.3], fill=(244, 248, 254))
    dots(draw, rng, (w, h), count=45, radii=(2.5, 2.5, 3.5), fill=(255, 255, 255))
    return image


def night(rng: random.Random, w: int, h: int, horizon: int) -> Image.Image:
    image = fade(w, h, (10, 14, 52), (44, 48, 116))
    dots(ImageDraw.Draw(image), rng, (w, h), count=40, radii=(1.5, 1.5, 2.5), fill=(255, 250, 215))
    return image


def sea(rng: random.Random, w: int, h: int, horizon: int) -> Image.Image:
    sky, water = ((120, 195, 250), (225, 242, 255)), ((40, 130, 210), (16, 80, 160))
    image, draw = halves(w, h, horizon, sky, water)
    unit = min(w, h)
    for _ in range(14 * w * h // unit**2):
        x, y = rng.uniform(0, w), rng.uniform(horizon + 4, h)
        draw.arc([x, y, x + unit * 0.1, y + unit * 0.04], 200, 340, fill=(170, 215, 245), width=2)
    return image


def city(rng: random.Random, w: int, h: int, horizon: int) -> Image.Image:
    sky, street = ((255, 196, 150), (255, 232, 208)), ((120, 124, 134), (96, 100, 110))
    street_row = round(h * 0.82)
    image, draw = halves(w, h, street_row, sky, street)
    unit, x = min(w, h), -rng.uniform(0, 0.1) * min(w, h)
    while x < w:
        wide, tall = unit * rng.uniform(0.13, 0.2), unit * rng.uniform(0.3, 0.62)
        shade = rng.choice([(112, 128, 160), (132, 116, 148), (98, 116, 140), (150, 138, 156)])
        tower(draw, (x, street_row - tall, x + wide, street_row), shade, unit * 0.045)
        x += wide + unit * rng.uniform(0.0, 0.03)
    draw.line([0, (street_row + h) // 2, w, (street_row + h) // 2], fill=(230, 220, 160), width=3)
    return image


def tower(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], fill: RGB, step: float
):
    left, top, right, bottom = box
    draw.rectangle(box, fill=fill)
    y = top + step * 0.6
    while y < bottom - step:
        x = left + step * 0.5
        while x < right - step * 0.6:
            draw.rectangle([x, y, x + step * 0.5, y + step * 0.55], fill=(250, 232, 164))
            x += step
        y += step * 1.3


def rain(rng: random.Random, w: int, h: int, horizon: int) -> Image.Image:
    sky, land = ((92, 104, 122), (140, 152, 168)), ((104, 112, 118), (84, 92, 98))
    image, draw = halves(w, h, horizon, sky, land)
    unit = min(w, h)
    for _ in range(60 * w * h // unit**2):
        x, y = rng.uniform(0, w), rng.uniform(0, h)
        draw.line([x, y, x - unit * 0.015, y + unit * 0.05], fill=(196, 216, 238), width=2)
    return image


def meadow(rng: random.Random, w: int, h: int, horizon: int) -> Image.Image:
    sky, land = ((90, 170, 245), (205, 232, 255)), ((110, 190, 70), (70, 150, 50))
    image, draw = halves(w, h, horizon, sky, land)
    draw.ellipse([-w * 0.4, horizon - h * 0.08, w * 0.7, h * 1.4], fill=(104, 184, 68))
    draw.ellipse([w * 0.3, horizon - h * 0.05, w * 1.5, h * 1.5], fill=(92, 172, 60))
    for _ in range(rng.randint(1, 3)):
        x, y, r = rng.uniform(0, w), rng.uniform(0.06, 0.3) * h, rng.uniform(0.05, 0.08) * min(w, h)
        for step in (-1, 0, 1):
            box = [x + step * r - r, y - r * 0.6, x + step * r + r, y + r * 0.6]
            draw.ellipse(box, fill=(250, 252, 255))
    return image


def beach(rng: random.Random, w: int, h: int, horizon: int) -> Image.Image:
    sky, sand = ((120, 195, 250), (225, 242, 255)), ((244, 222, 160), (226, 194, 124))
    image, draw = halves(w, h, horizon, sky, sand)
    draw.rectangle([0, horizon - h * 0.14, w, horizon], fill=(38, 130, 205))
    draw.line([0, horizon, w, horizon], fill=(240, 250, 255), width=4)
    return image


def desert(rng: random.Random, w: int, h: int, horizon: int) -> Image.Image:
    sky, sand = ((240, 110, 60), (255, 205, 120)), ((226, 160, 84), (190, 120, 60))
    image, draw = halves(w, h, horizon, sky, sand)
    x, r = rng.uniform(0.15, 0.85) * w, min(w, h) * 0.13
    draw.pieslice([x - r, horizon - r, x + r, horizon + r], 180, 360, fill=(255, 240, 160))
    return image


SCENES = {
    "snow": Scene(
        ("in a snowy field", "in the snow"),
        ("在雪地里", "在雪中"),
        "snow", "雪地", ((196, 214, 232), (240, 245, 252)), True, snow,
    ),
    "night": Scene(
        ("under a starry night sky", "in the night sky", "at night"),
        ("在满天繁星的夜空下", "在夜空中", "在夜晚"),
        "starry night", "星空", ((27, 31, 84),), False, night,
    ),
    "sea": Scene(
        ("over the blue sea", "on the sea"),
        ("在蓝色的大海上", "在海上"),
        "sea", "大海", ((196, 228, 253), (30, 108, 188)), False, sea,
    ),
    "city": Scene(
        ("in the city", "on a city street", "in front of tall buildings"),
        ("在城市里", "在城市的街道上", "在高楼大厦前"),
        "city", "城市", ((124, 124, 148), (108, 112, 122)), True, city,
    ),
    "rain": Scene(
        ("in the rain",),
        ("在雨中",),
        "rain", "雨天", ((116, 128, 145), (96, 104, 110)), False, rain,
    ),
    "meadow": Scene(
        ("on a grassy meadow under a blue sky", "on the grass", "on a green meadow"),
        ("在蓝天下的草地上", "在草地上", "在绿色的草地上"),
        "meadow", "草地", ((104, 184, 68),), True, meadow,
    ),
    "beach": Scene(
        ("on a sandy beach by the sea", "on the beach"),
        ("在海边的沙滩上", "在沙滩上"),
        "beach", "沙滩", ((240, 216, 150),), True, beach,
    ),
    "desert": Scene(
        ("in a desert at sunset", "in the desert"),
        ("在日落时的沙漠里", "在沙漠里"),
        "desert", "沙漠", ((255, 190, 110), (216, 150, 76)), True, desert,
    ),
}  # fmt: skip
