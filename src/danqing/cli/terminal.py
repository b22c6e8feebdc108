"""The two streams: results go to stdout, all else (notes, warnings, progress) to stderr."""

import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str) -> None:
    """A result, on stdout."""
    typer.echo(text)


def say_json(record: Mapping[str, Any]) -> None:
    """A result as one line of JSON, on stdout."""
    typer.echo(json.dumps(record, ensure_ascii=False))


def note(text: str) -> None:
    """Something worth knowing, on stderr."""
    typer.echo(text, err=True)


def warn(text: str) -> None:
    """Something that is likely not what was meant, on stderr."""
    typer.echo(f"warning: {text}", err=True)


def watched() -> bool:
    """Whether a person sees stderr, so that progress is worth drawing."""
    return sys.stderr.isatty()


def console() -> "Console":
    """Rich's console on stderr."""
    from rich.console import Console

    return Console(stderr=True)


def busy(text: str) -> AbstractContextManager[Any]:
    """A spinner with ``text`` while the body runs, if a person watches."""
    return console().status(text) if watched() else nullcontext()


def size_text(number: int) -> str:
    """Bytes as a person reads them."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"
