"""A contact sheet of the shards, for the eye: numbers do not show a bad crop."""

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

from recipes.mini.files import write_atomic
from recipes.mini.shards import load_pictures

COLUMNS, ROWS = 12, 8
GAP = 2


def write_sheet(folder: Path, seed: int) -> None:
    """sheet.png and, cell by cell, the captions in sheet.txt."""
    pictures = load_pictures(folder, "train")
    count = min(COLUMNS * ROWS, len(pictures))
    chosen = random.Random(f"{seed}|sheet").sample(range(len(pictures)), count)
    step = pictures.images.shape[1] + GAP
    sheet = np.full((ROWS * step, COLUMNS * step, 3), 255, np.uint8)
    lines = []
    for cell, index in enumerate(chosen):
        row, column = divmod(cell, COLUMNS)
        y, x = row * step, column * step
        sheet[y : y + step - GAP, x : x + step - GAP] = pictures.images[index]
        record = pictures.records[index]
        lines.append(f"{row + 1},{column + 1} {record['id']}")
        both = zip(record["captions_en"], record["captions_zh"], strict=True)
        lines += [f"    {en} | {zh}" for en, zh in both]
    png = io.BytesIO()
    Image.fromarray(sheet).save(png, "PNG")
    write_atomic(folder / "sheet.png", png.getvalue())
    write_atomic(folder / "sheet.txt", ("\n".join(lines) + "\n").encode())
