"""What a search for records comes upon, and how a record is put together and checked.

A search yields records, faults and notes; it never stops at a fault, so that all of them are told.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from danqing.errors import DataError
from danqing.training.data.records import Place, Record, Source

SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MASK = ".mask.png"
CAPTION_FIELDS = ("caption", "text", "prompt")


@dataclass(frozen=True)
class Fault:
    """Why something cannot be used; begins with its place."""

    text: str


@dataclass(frozen=True)
class Note:
    """What is left aside, for a warning."""

    text: str


Finding = Record | Fault | Note


@dataclass(frozen=True)
class Draft:
    """A picture with what stands beside it, not yet checked; ``fields`` are those of metadata."""

    origin: str
    image: Place
    captions: tuple[str, ...]
    fields: Mapping[str, Any]
    mask: Place | None = None


def finish(draft: Draft, source: Source) -> Record:
    """The record; a picture without a caption gets the source's. DataError for wrong fields."""
    captions = draft.captions or ((source.caption,) if source.caption else ())
    repeats = count(draft.fields.get("repeats", 1), "repeats")
    weight = positive(draft.fields.get("weight", 1.0), "weight")
    return Record(
        origin=draft.origin,
        image=draft.image,
        captions=captions,
        repeats=count(repeats * source.repeats, "repeats"),
        weight=weight * source.weight,
        mask=draft.mask,
    )


def is_picture(name: str) -> bool:
    """By its suffix; a mask is none."""
    lower = name.lower()
    return lower.endswith(SUFFIXES) and not lower.endswith(MASK)


# ---- values -----------------------------------------------------------------------------------


def texts(value: Any) -> tuple[str, ...]:
    """A caption or a list of them, without those that are blank."""
    values = value if isinstance(value, list) else [value]
    for text in values:
        if not isinstance(text, str):
            raise DataError(f"caption {text!r} must be a text or a list of texts")
    return tuple(text.strip() for text in values if text.strip())


def lines(content: bytes) -> tuple[str, ...]:
    """The captions of a text file, one per line."""
    # Not `splitlines`, which also parts at characters that captions may hold.
    return texts(decoded(content).split("\n"))


def decoded(content: bytes) -> str:
    try:
        return content.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"line {line}: {error.reason}; save the file as UTF-8") from error


MOST = 10_000


def count(value: Any, name: str) -> int:
    """A whole number from 1; an epoch is laid out in memory, so not too many."""
    if type(value) is not int or not 1 <= value <= MOST:
        raise DataError(f"{name} {value!r} must be a whole number from 1 to {MOST}")
    return value


def positive(value: Any, name: str) -> float:
    """A finite number above 0."""
    if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
        raise DataError(f"{name} {value!r} must be a number above 0, usually 1")
    return float(value)


def one_of(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the one name that is given, or None; DataError where there are several."""
    given = [name for name in names if fields.get(name) is not None]
    if len(given) > 1:
        raise DataError(f"has both {given[0]} and {given[1]}; leave one of them out")
    return fields[given[0]] if given else None
