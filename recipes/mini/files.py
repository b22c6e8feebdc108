"""Writing files so that a reader never sees half of one."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from danqing import atomic


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """The old file or the new one, never half; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, lambda file: file.write(content))


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    write_atomic(path, (text + "\n").encode())


def write_png(path: Path, image: Image.Image) -> int:
    """As small as it gets; returns the bytes."""
    png = io.BytesIO()
    image.save(png, "PNG", optimize=True)
    write_atomic(path, png.getvalue())
    return len(png.getvalue())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def fill(page: Path, name: str, text: str) -> None:
    """Put a text between the two marks of this name in a page, in place of what stood there."""
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, rest = page.read_text(encoding="utf-8").split(start, 1)
    after = rest.split(end, 1)[1]
    write_atomic(page, (before + start + "\n" + text + "\n" + end + after).encode())
