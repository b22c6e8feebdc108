"""Writing files so that a reader never sees half of one."""

import json
from pathlib import Path
from typing import Any

from danqing import atomic


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """The old file or the new one, never half; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, lambda file: file.write(content))


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
