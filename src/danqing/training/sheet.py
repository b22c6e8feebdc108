"""Contact sheets: pictures in a grid with labels, for the eye.

Labels are drawn with Pillow's own font, so that a sheet looks alike on every machine. It has no
Chinese: what it cannot draw becomes "…", and then all labels of that side are numbered, so that
they are still told apart. Does not know prompts, steps or where sheets are kept.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from danqing import atomic

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Rows = Sequence[Sequence[Image.Image]]

LIMIT = 1024 * 1024  # bytes of a file, where it can be kept
CELLS = (512, 384, 256, 192)  # longest sides of a shown picture: the first that keeps the limit
SEEN = 256  # smaller pictures are enlarged towards this
MARGIN, GAP = 12, 6
TITLE, LABEL = 18, 13  # heights of the letters
SIDE = 150  # width of the row labels, at most
NARROWEST = 96  # of a column, so that its label can be read
LONG = 80  # letters; labels beyond it may be cut, and are numbered as well
LINES = 8  # of a label
PAPER, INK = "#ffffff", "#1a1a1a"
MISSING = "\U0010fffd"  # a character that no font has
CUT = "…"


def contact_sheet(
    rows: Rows,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    *,
    cell: int = CELLS[0],
) -> Image.Image:
    """A grid of pictures of any sizes; labels are as many as rows and columns, or none.

    Small pictures are enlarged by whole factors, those larger than ``cell`` are made smaller.
    """
    columns = max((len(row) for row in rows), default=0)
    assert len(row_labels) in (0, len(rows))
    assert len(column_labels) in (0, columns)
    shown = [[fitted(image, cell) for image in row] for row in rows]
    widths = [max(NARROWEST, *(r[c].width for r in shown if c < len(r))) for c in range(columns)]
    side = [wrapped(label, LABEL, SIDE) for label in told_apart(row_labels)]
    labels = told_apart(column_labels)
    top = [wrapped(label, LABEL, width) for label, width in zip(labels, widths, strict=False)]
    left = MARGIN + max((width_of(text) + 2 * GAP for text in side), default=0)
    right = max(left + sum(widths) + GAP * max(columns - 1, 0), 2 * SIDE) + MARGIN
    head = wrapped(drawable(title), TITLE, right - 2 * MARGIN)
    heights = [
        max([image.height for image in row] + [height_of(side[i] if side else [], LABEL)])
        for i, row in enumerate(shown)
    ]
    grid = MARGIN + height_of(head, TITLE) + max((height_of(t, LABEL) for t in top), default=0)
    bottom = grid + sum(heights) + GAP * max(len(rows) - 1, 0) + MARGIN

    sheet = Image.new("RGB", (right, bottom), PAPER)
    draw = ImageDraw.Draw(sheet)
    write_lines(draw, (MARGIN, MARGIN), head, TITLE)
    xs = [left + sum(widths[:c]) + GAP * c for c in range(columns)]
    for x, text in zip(xs, top, strict=False):
        write_lines(draw, (x, grid - height_of(text, LABEL)), text, LABEL)
    y = grid
    for i, row in enumerate(shown):
        if side:
            write_lines(draw, (MARGIN, y), side[i], LABEL)
        for x, width, image in zip(xs, widths, row, strict=False):
            sheet.paste(image, (x + (width - image.width) // 2, y))
        y += heights[i] + GAP
    return sheet


def write(
    path: Path,
    rows: Rows,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
) -> Image.Image:
    """Write the contact sheet as a PNG, its pictures as large as 1 MiB allows; the sheet.

    Raises:
        OutputError: the folder cannot be written, or is full.
    """
    for cell in CELLS:
        sheet = contact_sheet(rows, row_labels, column_labels, title, cell=cell)
        content = io.BytesIO()
        sheet.save(content, "PNG")
        if content.tell() <= LIMIT:
            break
    atomic.write(path, lambda file: file.write(content.getvalue()))
    return sheet


def fitted(image: Image.Image, cell: int) -> Image.Image:
    """Larger by a whole factor that keeps every pixel, or smaller, or as it is."""
    image, longest = image.convert("RGB"), max(image.size)
    if longest > cell:
        sides = [max(1, round(side * cell / longest)) for side in image.size]
        return image.resize((sides[0], sides[1]), Image.Resampling.LANCZOS)
    factor = max(1, min(SEEN, cell) // longest)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


# ---- labels -----------------------------------------------------------------------------------


def told_apart(labels: Sequence[str]) -> list[str]:
    """The labels as they can be drawn, numbered from 1 if that leaves something out of one."""
    found = [drawable(label) for label in labels]
    plain = [" ".join(label.split()) for label in labels]
    if found == plain and all(len(label) <= LONG for label in labels):
        return found
    return [f"#{i} {label}" for i, label in enumerate(found, 1)]


def drawable(text: str) -> str:
    """The text on one line, with "…" for what the font lacks."""
    font = font_of(LABEL)
    lacking = picture(font, MISSING)
    line = " ".join(text.split())
    lacked = {c for c in set(line) if picture(font, c) == lacking}
    return re.sub(rf"{CUT}[{CUT} ]*{CUT}", CUT, "".join(CUT if c in lacked else c for c in line))


def picture(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def wrapped(text: str, letters: int, width: int) -> list[str]:
    """Lines that are not wider; the last one is cut where there would be too many."""
    font, lines = font_of(letters), [""]
    for word in re.findall(r"\S+", text):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for character in word:  # a word may be wider than the line
            if font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    lines = [line for line in lines if line]
    if len(lines) > LINES:
        lines[LINES - 1 :] = [lines[LINES - 1].rstrip()[:-1] + CUT]
    return lines


def font_of(letters: int) -> Font:
    return ImageFont.load_default(size=letters)


def width_of(lines: Sequence[str]) -> int:
    return max((round(font_of(LABEL).getlength(line)) for line in lines), default=0)


def height_of(lines: Sequence[str], letters: int) -> int:
    """With the gap below; nothing takes no room."""
    return len(lines) * round(1.3 * letters) + GAP if lines else 0


def write_lines(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], letters: int
) -> None:
    for i, line in enumerate(lines):
        y = place[1] + i * round(1.3 * letters)
        draw.text((place[0], y), line, fill=INK, font=font_of(letters))
