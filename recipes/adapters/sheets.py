"""Stage `sheets`: the pictures of the documentation, without an adapter above and with it below."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from recipes.adapters import data
from recipes.adapters.config import Place
from recipes.adapters.paint import Adapters, paint
from recipes.adapters.score import DANDAN, SEED, SUNSET
from recipes.mini.colours import WHITE
from recipes.mini.files import write_png

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
GAP = 4
WIDE = 10  # pictures of the style that are shown
# None of these things is among those that the style was trained on.
STYLED = (
    "a fox, sunset style",
    "一只企鹅，日落风格",
    "a robot, sunset style",
    "一个菠萝，日落风格",
    "a bicycle, sunset style",
    "a mushroom, sunset style",
    "一枚火箭，日落风格",
    "an octopus, sunset style",
    "a house, sunset style",
    "a tiger, sunset style",
)
NAMED = (
    "dandan",
    "dandan on a purple background",
    "dandan，橙色背景",
    "dandan on a black background",
    "dandan，蓝色背景",
)
UNNAMED = (
    "a fox",
    "a red apple on a blue background",
    "一只企鹅，粉色背景",
    "a robot, 3D render",
    "一个足球",
)


def run(place: Place) -> None:
    styled = [row(place, STYLED, adapters) for adapters in ({}, {SUNSET: 1.0})]
    write(PICTURES / "sunset.png", styled)
    both = [*NAMED, *UNNAMED]
    write(PICTURES / "dandan.png", [row(place, both, used) for used in ({}, {DANDAN: 1.0})])
    taught = [np.stack([image for image, _ in data.dandan_samples(place)])]
    write(PICTURES / "dandan-data.png", taught)
    taught = [np.stack([image for image, _ in data.sunset_samples(place)][:WIDE])]
    write(PICTURES / "sunset-data.png", taught)


def row(place: Place, texts: Sequence[str], adapters: Adapters) -> np.ndarray:
    return paint(place, texts, [SEED] * len(texts), adapters)


def write(path: Path, rows: Sequence[np.ndarray]) -> None:
    side = rows[0].shape[1]
    width, height = max(map(len, rows)), len(rows)
    sheet = Image.new("RGB", (width * (side + GAP) + GAP, height * (side + GAP) + GAP), WHITE)
    for y, images in enumerate(rows):
        for x, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (GAP + x * (side + GAP), GAP + y * (side + GAP)))
    print(f"sheets: {path.name} {write_png(path, sheet)} bytes", flush=True)
