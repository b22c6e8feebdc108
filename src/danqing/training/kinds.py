"""Of which kind a setting's value must be: what a file or a flag gives may be anything."""

from collections.abc import Mapping
from typing import Any

from danqing.errors import TrainingError

NUMBER = (int, float)
# An example of those that are nothing by default; and what lists hold.
OPTIONAL: dict[str, Any] = {
    "alpha": 16.0, "size": (512, 512), "device": "cuda", "dtype": "bfloat16", "threads": 4,
    "minutes": 30.0, "sample_steps": 20, "sample_guidance": 4.0, "few_step": "lightning-8",
    "guidance": 4.0, "start": "lightning-4", "rank": 32,
}  # fmt: skip
ITEMS: dict[str, Any] = {
    "data": (str, Mapping), "targets": str, "prior_prompts": str, "prompts": str,
    "nodes": NUMBER, "sample_seeds": int, "size": int,
    "adapters": str, "sizes": str, "also": int,
}  # fmt: skip


def check_type(name: str, value: Any, default: Any) -> None:
    """The value is of the default's kind, a whole number passing for any number."""
    if default is None and value is None:
        return
    like = OPTIONAL[name] if default is None else default
    kinds = {bool: bool, int: int, float: NUMBER, str: str, tuple: tuple}
    kind = (*NUMBER, str) if name == "shift" else kinds[type(like)]
    if not is_one(value, kind) or not all(is_one(own, ITEMS[name]) for own in items(name, value)):
        shown = (list(like) or ["..."]) if isinstance(like, tuple) else like
        raise TrainingError(f"{name} {value!r} must be like {shown!r}")
    for text in (value, *items(name, value)):
        if isinstance(text, str) and not is_sound(text):
            raise TrainingError(f"--{name} {text!r} holds characters that no file can; change it")


def is_one(value: Any, kind: Any) -> bool:
    """Whether it is of the kind; a truth is no number, though Python says so."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def is_sound(text: str) -> bool:
    """Whether it is whole Unicode, and can be a part of a path."""
    return "\0" not in text and text.encode(errors="ignore").decode() == text


def items(name: str, value: Any) -> tuple[Any, ...]:
    return value if name in ITEMS else ()
