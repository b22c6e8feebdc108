"""Paint the README's picture: the prompts of mini.txt, in rows of eight, twice enlarged.

python docs/paint.py
"""

from pathlib import Path

from PIL import Image

import danqing

HERE = Path(__file__).parent
COLUMNS, SCALE, GAP = 8, 2, 4


def main() -> None:
    lines = (HERE / "mini.txt").read_text(encoding="utf-8").splitlines()
    parts = [line.split(" ", 1) for line in lines]
    requests = [danqing.Request(prompt, seed=int(seed)) for seed, prompt in parts]
    pictures = [result.image for result in danqing.load("mini").generate(requests)]
    side = pictures[0].width * SCALE
    rows = -(-len(pictures) // COLUMNS)
    size = (COLUMNS * (side + GAP) + GAP, rows * (side + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    for i, picture in enumerate(pictures):
        place = (GAP + i % COLUMNS * (side + GAP), GAP + i // COLUMNS * (side + GAP))
        sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), place)
    sheet.save(HERE / "mini.png", optimize=True)


if __name__ == "__main__":
    main()
