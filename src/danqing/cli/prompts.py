"""Where prompts come from: the arguments, a text file, a JSONL file.

Each prompt becomes a Draft: the fields that it sets itself, and the words that name its place in an
error. The options of the command line are joined to it in ``jobs``.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danqing.cli import fields
from danqing.errors import RequestError

_GIVE_ONE = 'give one, for example: danqing generate "a red fox"'


@dataclass(frozen=True)
class Draft:
    """Some fields of a Request, ``prompt`` always among them; no origin where there is but one."""

    origin: str
    fields: dict[str, Any]


def gather(arguments: Sequence[str], file: Path | None) -> list[Draft]:
    """The drafts of the arguments, then those of the file; at least one."""
    drafts = []
    for place, prompt in enumerate(arguments, start=1):
        origin = f"prompt {place}" if len(arguments) > 1 else ""
        text = fields.parse(fields.prompt, prompt, origin or "prompt")
        drafts.append(Draft(origin, {"prompt": text}))
    if file is not None:
        drafts += read(file)
    if not drafts:
        raise RequestError(f"no prompt; {_GIVE_ONE}")
    return drafts


def read(path: Path) -> list[Draft]:
    """The drafts in a ``.jsonl`` file, or in a text file with one prompt per line."""
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".txt", ""):
        raise RequestError(
            f"{path} ends in {suffix}; give .txt (one prompt per line) or .jsonl (one request)"
        )
    drafts = []
    for origin, line in _lines(path):
        record = _record(line, origin) if suffix == ".jsonl" else {"prompt": line}
        drafts.append(Draft(origin, _fields(record, origin)))
    if not drafts:
        raise RequestError(f"{path} holds no prompt; write one per line")
    return drafts


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with the words for its place."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}; check the name") from error
    # Not `splitlines`, which also parts at characters that JSON and prompts may hold.
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        origin = f"{path} line {number}"
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError as error:
            raise RequestError(f"{origin}: {error.reason}; save the file as UTF-8") from error
        if line:
            yield origin, line


def _record(line: str, origin: str) -> dict[str, Any]:
    try:
        record = json.loads(line, object_pairs_hook=_without_repeats, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise RequestError(
            f"{origin}: not JSON ({error.msg} at column {error.colno}); "
            'write one object per line, for example {"prompt": "a red fox", "seed": 7}'
        ) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{origin}: not JSON ({error})") from error
    if not isinstance(record, dict):
        raise RequestError(f'{origin}: must be an object, for example {{"prompt": "a red fox"}}')
    return record


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a field stands twice in one object")
    return record


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _fields(record: dict[str, Any], origin: str) -> dict[str, Any]:
    """The record's fields, checked; ``null`` is a field that is not set."""
    for name in record:
        if name not in fields.READERS:
            known = ", ".join(fields.READERS)
            raise RequestError(f"{origin}: unknown field {name!r}; the fields are {known}")
    if record.get("prompt") is None:
        raise RequestError(f'{origin}: no prompt; write for example {{"prompt": "a red fox"}}')
    given = {name: value for name, value in record.items() if value is not None}
    if "steps" in given and "sigmas" in given:
        raise RequestError(f"{origin}: both steps and sigmas; give one of them")
    readers = fields.READERS
    return {k: fields.parse(readers[k], v, f"{origin}: {k}") for k, v in given.items()}
