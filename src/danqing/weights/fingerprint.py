"""What a model is, in 16 hexadecimal digits, so that a picture's recipe can name it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

WHOLE = 64 * 1024**2  # files up to this size count whole
SAMPLE = 64 * 1024
ADAPTERS = "adapters"  # a model's folder may hold adapters of its own
# What lies in a model's folder and does not change what its networks compute.
BESIDE = (ADAPTERS, "danqing.json", "prompts.txt")


def fingerprint(folder: Path) -> str:
    """Of the settings, the tokenizer and the weights of all components; not of what lies beside.

    Small files count whole. Reading tens of gigabytes would take longer than painting, so a larger
    file counts with its size, its beginning (where safetensors lists all tensors) and 256 samples.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        own = path.relative_to(folder).parts[0] not in BESIDE
        if own and path.is_file() and path.suffix in (".json", ".safetensors", ".txt"):
            digest.update(
                f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode()
            )
            with path.open("rb") as file:
                for block in blocks(file, path.stat().st_size):
                    digest.update(block)
    return digest.hexdigest()[:16]


def blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    if size <= WHOLE:
        yield file.read()
        return
    yield file.read(SAMPLE * 16)
    for i in range(256):
        file.seek((size - SAMPLE) * i // 255)
        yield file.read(SAMPLE)
