"""The fields of a Request as text or JSON: one reader for each, the same for options and files.

Checks what can be said without a model: types and plain ranges. What the model can paint is the
pipeline's to check.
"""

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from danqing.errors import RequestError

SEED_LIMIT = 2**63
_MULTIPLE = 16
Value = TypeVar("Value")


def parse(read: Callable[[Any], Value], value: Any, label: str) -> Value:
    """What ``read`` makes of the value; ``label`` says in the error whose value it is."""
    try:
        return read(value)
    except ValueError as error:
        shown = value if isinstance(value, int | float) else repr(value)
        raise RequestError(f"{label} {shown} {error}") from None


def number(value: str) -> int | float | str:
    """An option's text as the number that it means; any other text as it is."""
    if re.fullmatch(r"[+-]?[0-9]{1,30}", value):
        return int(value)
    try:
        return float(value)
    except ValueError:
        return value


def prompt(value: Any) -> str:
    """A text with something in it."""
    if not text(value).strip():
        raise ValueError("is empty; say what to paint")
    return text(value)


def text(value: Any) -> str:
    """Any text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, or raw bytes from the shell
        raise ValueError("is not valid Unicode text; give it as UTF-8") from None
    return value


def seed(value: Any) -> int:
    """0 <= seed < 2**63."""
    if type(value) is not int or not 0 <= value < SEED_LIMIT:
        raise ValueError(f"must be a whole number from 0 to {SEED_LIMIT - 1}")
    return value


def size(value: Any) -> tuple[int, int]:
    """WxH, or a list of the two."""
    match = (
        re.fullmatch(r"(\d{1,6})\s*[xX×]\s*(\d{1,6})", value) if isinstance(value, str) else None
    )
    pair = [int(number) for number in match.groups()] if match else value
    if not isinstance(pair, list) or len(pair) != 2 or any(type(n) is not int for n in pair):
        raise ValueError("must be WIDTHxHEIGHT in pixels, for example 128x128")
    if any(number < _MULTIPLE or number % _MULTIPLE for number in pair):
        near = "x".join(str(max(1, round(n / _MULTIPLE)) * _MULTIPLE) for n in pair)
        raise ValueError(
            f"must be multiples of {_MULTIPLE}, at least {_MULTIPLE}; the nearest: {near}"
        )
    return pair[0], pair[1]


def count(value: Any) -> int:
    """At least 1."""
    if type(value) is not int or value < 1:
        raise ValueError("must be a whole number of at least 1, for example 4")
    return value


def sigmas(value: Any) -> tuple[float, ...]:
    """A list of falling noise levels, or text with commas between them."""
    from danqing.sampling.schedule import check_sigmas

    rule = "must be falling noise levels from at most 1 to 0, for example 1,0.9,0.75,0.5"
    try:
        levels = [float(level) for level in value.split(",")] if isinstance(value, str) else value
        if not isinstance(levels, list) or any(type(n) not in (int, float) for n in levels):
            raise ValueError
        check_sigmas(levels)
    except ValueError:
        raise ValueError(rule) from None
    return tuple(float(level) for level in levels)


def guidance(value: Any) -> float:
    """A finite number from 1; 1 is none."""
    if not _is_finite(value) or value < 1:
        raise ValueError("must be a number from 1 (none) upwards, for example 4")
    return float(value)


def strength(value: Any) -> float:
    """Any finite number; 1 is an adapter as it was made."""
    if not _is_finite(value):
        raise ValueError("must be a number, for example 0.8")
    return float(value)


def adapters(value: Any) -> dict[str, float]:
    """Names and strengths."""
    if not isinstance(value, dict) or not all(_is_finite(n) for n in value.values()):
        raise ValueError('must be names with strengths, for example {"style.safetensors": 0.8}')
    if not all(name.strip() for name in value):
        raise ValueError("has an empty name; give a file or a name, for example style.safetensors")
    return {text(name): float(n) for name, n in value.items()}


def _is_finite(value: Any) -> bool:
    """Whether it is a number that a float can hold."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


READERS: dict[str, Callable[[Any], Any]] = {
    "prompt": prompt,
    "negative": text,
    "seed": seed,
    "size": size,
    "steps": count,
    "sigmas": sigmas,
    "guidance": guidance,
    "adapters": adapters,
}
