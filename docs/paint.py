"""Paint the pictures of the documentation as gallery.toml asks for them, and write gallery.md.

python docs/paint.py [SHEET...]
"""

import sys
import tomllib
from pathlib import Path
from typing import Any

from PIL import Image

import danqing

HERE = Path(__file__).parent
GAP = 4
HEAD = """# Gallery

What `mini` paints, as it comes: one seed for every sheet, nothing picked among several, four steps
without guidance where nothing else is said. Painted by `python docs/paint.py` after
[gallery.toml](gallery.toml).
"""


def main() -> None:
    sheets = tomllib.loads((HERE / "gallery.toml").read_text(encoding="utf-8"))["sheet"]
    known = [sheet["file"] for sheet in sheets]
    wanted = sys.argv[1:] or known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"{unknown[0]} is no sheet; the sheets are {', '.join(known)}")
    pipe = danqing.load("mini")
    for sheet in sheets:
        if sheet["file"] in wanted:
            paint(pipe, sheet).save(HERE / sheet["file"], optimize=True)
    page = "\n".join([HEAD, *map(section, sheets)])
    (HERE / "gallery.md").write_text(page, encoding="utf-8")


def paint(pipe: danqing.Pipeline, sheet: dict[str, Any]) -> Image.Image:
    """A row for each list of prompts, or for each prompt where a setting changes along the row."""
    rows = [[request(sheet, **cell) for cell in row] for row in cells(sheet)]
    results = iter(pipe.generate([cell for row in rows for cell in row]))
    pictures = [[next(results).image for _ in row] for row in rows]
    width, height = pictures[0][0].size
    columns = max(len(row) for row in pictures)
    size = (columns * (width + GAP) + GAP, len(rows) * (height + GAP) + GAP)
    canvas = Image.new("RGB", size, "white")
    for y, row in enumerate(pictures):
        for x, picture in enumerate(row):
            canvas.paste(picture, (GAP + x * (width + GAP), GAP + y * (height + GAP)))
    return canvas


def cells(sheet: dict[str, Any]) -> list[list[dict[str, Any]]]:
    prompts = [prompt for row in sheet["prompts"] for prompt in row]
    if "along" in sheet:
        key = sheet["along"]
        return [[{"prompt": p, key: value} for value in sheet[key]] for p in prompts]
    return [[{"prompt": prompt} for prompt in row] for row in sheet["prompts"]]


def request(sheet: dict[str, Any], **cell: Any) -> danqing.Request:
    size = tuple(sheet["size"]) if "size" in sheet else None
    # A list is what changes along the row.
    how = {k: sheet[k] for k in ("steps", "guidance") if not isinstance(sheet.get(k, []), list)}
    return danqing.Request(**{"seed": sheet["seed"], "size": size, **how, **cell})


def section(sheet: dict[str, Any]) -> str:
    lines = [f"## {sheet['title']}", "", sheet["text"].strip(), ""]
    if "along" in sheet:
        values = ", ".join(f"{value:g}" for value in sheet[sheet["along"]])
        lines += [f"From left to right {sheet['along']} {values}.", ""]
    lines += [
        f"![{sheet['title']}]({sheet['file']})",
        "",
        "<details><summary>Prompts</summary>",
        "",
    ]
    lines += [f"{n}. {' · '.join(row)}" for n, row in enumerate(sheet["prompts"], start=1)]
    return "\n".join([*lines, "", f"Seed {sheet['seed']}.", "", "</details>", ""])


if __name__ == "__main__":
    main()
