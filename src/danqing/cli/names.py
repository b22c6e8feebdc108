"""File names from prompts: readable in any script, and safe on every file system."""

import unicodedata
from collections.abc import Iterator

_MAX_CHARACTERS = 60
_MAX_BYTES = 180  # of the 255 that file systems allow; the rest is for seed, number and suffix


def stem(prompt: str, seed: int) -> str:
    """``a-red-fox-7`` for "A red fox!" and 7. The seed also keeps Windows' own names away."""
    return f"{slug(prompt)}-{seed}"


def slug(prompt: str) -> str:
    """The letters and digits of a prompt, in lower case, other characters as single hyphens."""
    plain = unicodedata.normalize("NFKC", prompt).lower()
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in plain)
    whole = unicodedata.normalize("NFC", "-".join(kept.split()))
    return _cut(whole) or "picture"


def _cut(text: str) -> str:
    """At most so many characters and bytes, at the end of a word where one is near."""
    short = text[:_MAX_CHARACTERS]
    while len(short.encode()) > _MAX_BYTES:
        short = short[:-1]
    if len(short) < len(text) and text[len(short)] != "-":
        head, _, tail = short.rpartition("-")
        short = head if head and len(tail) < len(short) // 3 else short
    return short.strip("-")


def numbered(stem: str) -> Iterator[str]:
    """``stem``, ``stem-2``, ``stem-3``, ... without end."""
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1
