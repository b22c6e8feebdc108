"""A training state on disk, in parts of 16 MiB: some ways to carry files refuse larger ones.

The parts of a step have their own names, and the index that lists them is replaced last: a kill at
any instant leaves the old state or the new one.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from recipes.mini.files import read_json, write_atomic, write_json

PART = 16 * 2**20


def save(state: dict[str, Any], folder: Path) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()
    names = [f"{digest[:12]}-{start // PART:03d}" for start in range(0, len(content), PART)]
    for number, name in enumerate(names):
        write_atomic(folder / name, content[number * PART : (number + 1) * PART])
    write_json(folder / "index.json", {"sha256": digest, "parts": names})
    for path in folder.iterdir():
        if path.name not in (*names, "index.json"):
            path.unlink()


def load(folder: Path) -> dict[str, Any] | None:
    """None where nothing was saved."""
    if not (folder / "index.json").exists():
        return None
    index = read_json(folder / "index.json")
    content = b"".join((folder / name).read_bytes() for name in index["parts"])
    if hashlib.sha256(content).hexdigest() != index["sha256"]:
        raise ValueError(f"{folder} is damaged; remove it to start again")
    state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    return state
