"""A contact sheet with captions, for the eye: numbers do not show a bad crop or a wrong word."""

import random
from pathlib import Path

import numpy as np
from PIL import Image

from recipes.mini.captions import draw_captions
from recipes.mini.files import write_atomic, write_png
from recipes.mini.stream import Stream

COLUMNS, ROWS = 10, 8
SIZE = (128, 128)
GAP = 2


def write_sheet(stream: Stream, path: Path) -> None:
    """PATH.png and, cell by cell, the captions in PATH.txt."""
    width, height = SIZE[0] + GAP, SIZE[1] + GAP
    sheet = np.full((ROWS * height, COLUMNS * width, 3), 255, np.uint8)
    lines = []
    for cell in range(COLUMNS * ROWS):
        picture = stream.picture(cell, SIZE)
        y, x = cell // COLUMNS * height, cell % COLUMNS * width
        sheet[y : y + SIZE[1], x : x + SIZE[0]] = picture.image
        both = draw_captions(random.Random(f"sheet|{cell}"), picture.facts)
        lines.append(f"{cell // COLUMNS + 1},{cell % COLUMNS + 1} {' | '.join(both)}")
    write_png(path.with_suffix(".png"), Image.fromarray(sheet))
    write_atomic(path.with_suffix(".txt"), ("\n".join(lines) + "\n").encode())
