"""Settings of any class, from a TOML file or from flags, and back into a file.

A class of settings is a frozen dataclass with a default for every field.
"""

import json
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from danqing.adapters.refusal import printable
from danqing.errors import TrainingError
from danqing.training.kinds import check_type

# What names files, and what names a file or something known.
PATHS, NAMES = ("data", "out", "cache", "prompts_file"), ("model", "few_step", "start")
ADAPTERS = "adapters"  # each a file or a name, with its strength or without
T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """A flat table; paths in it are relative to the file."""
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}; check the name") from error
    except (ValueError, RecursionError) as error:  # also of numbers that are too long
        raise TrainingError(f"{path} is not TOML: {printable(str(error))}") from error
    return {name: beside(path.parent, name, value) for name, value in found.items()}


def beside(folder: Path, name: str, value: Any) -> Any:
    """A setting with its paths as they are seen from here."""
    if name == ADAPTERS and isinstance(value, list):
        return [moved(own, folder, lambda file: os.path.normpath(folder / file)) for own in value]
    if name in PATHS and isinstance(value, list):
        return [beside(folder, name, own) for own in value]
    if name == "data" and isinstance(value, dict) and "path" in value:
        return {**value, "path": beside(folder, name, value["path"])}
    is_path = name in PATHS or (name in NAMES and (folder / str(value)).exists())
    if not is_path or not isinstance(value, str) or not value or value.startswith("~"):
        return value
    return os.path.normpath(folder / value)


def toml(settings: Any, usual: Any, folder: Path) -> str:
    """The settings that are not the usual ones, for a file in this folder."""
    lines = []
    for name, value in json.loads(json.dumps(asdict(settings))).items():
        if value is None or getattr(settings, name) == getattr(usual, name):
            continue
        if name in PATHS or (name in NAMES and Path(str(value)).exists()):
            value = seen_from(folder, value)
        if name == ADAPTERS:
            value = [
                moved(own, Path(), lambda file: os.path.relpath(file, folder)) for own in value
            ]
        lines.append(f"{name} = {toml_value(value)}\n")
    return "".join(lines)


def moved(entry: Any, folder: Path, to: Callable[[str], str]) -> Any:
    """An adapter's entry with another path to its file; as it is, if there is no such file."""
    file, colon, strength = str(entry).rpartition(":")
    if (folder / str(entry)).exists():
        return to(entry)
    return f"{to(file)}:{strength}" if colon and file and (folder / file).exists() else entry


def seen_from(folder: Path, value: Any) -> Any:
    """Paths as a file in this folder must name them."""
    match value:
        case list():
            return [seen_from(folder, own) for own in value]
        case dict():
            return {**value, "path": seen_from(folder, value["path"])}
    return os.path.relpath(value, folder)


def toml_value(value: Any) -> str:
    match value:
        case list():
            return f"[{', '.join(map(toml_value, value))}]"
        case dict():
            inner = (f"{name} = {toml_value(own)}" for name, own in value.items())
            return f"{{{', '.join(inner)}}}"
    # JSON's texts, numbers and truths are TOML as well, but for this one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def make(cls: type[T], values: Mapping[str, Any]) -> T:
    """The defaults, with these values; each must be known, and of its field's kind."""
    usual = cls()
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise TrainingError(
            f"setting {unknown[0]!r} is not known; the settings are {', '.join(known)}"
        )
    lists: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    for name, value in lists.items():
        check_type(name, value, getattr(usual, name))
    return replace(usual, **lists)  # type: ignore[type-var]


def check_choices(settings: Any, choices: Mapping[str, Sequence[str]]) -> None:
    for name, known in choices.items():
        value = getattr(settings, name)
        if value not in known:
            raise TrainingError(f"{name} {value!r} is not known; choose {', '.join(known)}")


def check_ranges(settings: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise TrainingError(f"{name} {value!r} must be from {low:g} to {high:g}")
