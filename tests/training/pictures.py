"""Small pictures and data sets, written where a test wants them."""

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from danqing.training.data.records import Place, Record


def photo(size: tuple[int, int] = (40, 32), seed: int = 0) -> Image.Image:
    """Smooth colours that differ at every pixel and with every seed."""
    width, height = size
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image | None = None, **options: Any) -> Path:
    """The picture, or a photo, in a file whose suffix says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or photo()).save(path, **options)
    return path


def encoded(image: Image.Image | None = None, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or photo()).save(buffer, form, **options)
    return buffer.getvalue()


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(path: Path, *rows: Any) -> Path:
    return write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def shard(path: Path, members: Mapping[str, Any]) -> Path:
    """A tar file with these members, in this order; an object becomes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, value in members.items():
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
            content = text.encode() if isinstance(text, str) else text
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def hollow_png(width: int, height: int) -> bytes:
    """A PNG whose header promises this many pixels, and no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in chunks:
        sum_ = struct.pack(">I", zlib.crc32(name + content))
        parts.append(struct.pack(">I", len(content)) + name + content + sum_)
    return b"".join(parts)


def record(path: Path, *captions: str, mask: Path | None = None) -> Record:
    """A record of a picture's file, with a caption if none is given."""
    place = None if mask is None else Place(mask)
    return Record(path.name, Place(path), captions or ("a fox",), mask=place)
