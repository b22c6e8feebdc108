"""WebDataset shards: tar files whose members share a key, ``key.jpg`` with ``key.txt``.

A member's key ends at the first dot of its name. Captions are the lines of ``key.txt`` and those in
``key.json``, which may also hold ``weight`` and ``repeats``; ``key.mask.png`` is the mask. Nothing
is unpacked: a record knows where in the shard its bytes lie.
"""

import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from danqing.errors import DataError
from danqing.training.data.findings import (
    CAPTION_FIELDS,
    MASK,
    SUFFIXES,
    Draft,
    Fault,
    Finding,
    Note,
    finish,
    lines,
    texts,
)
from danqing.training.data.records import Place, Record, Source
from danqing.training.data.tables import json_object

Parts = dict[str, Place]  # of a key, by what follows it: ".jpg", ".txt", ".mask.png"


def read_shard(path: Path, source: Source) -> Iterator[Finding]:
    """The pictures in a shard, in the order of their keys."""
    try:
        keys = members(path)
    except DataError as error:
        yield Fault(f"{path}: {error}")
        return
    if not any(pictures(parts) for parts in keys.values()):
        yield Fault(f"{path}: holds no picture; a picture ends in {', '.join(SUFFIXES)}")
    for key, parts in sorted(keys.items()):
        if pictures(parts):
            yield _finding(parts, f"{path}: {key}", source)
        elif ".txt" in parts or MASK in parts:
            yield Note(f"{path}: {key} has no picture and is left aside")


def members(path: Path) -> dict[str, Parts]:
    """The members of each key. DataError for a file that is no tar, or not a whole one."""
    keys: dict[str, Parts] = defaultdict(dict)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if not member.isreg() or any(part.startswith(".") for part in name.parts):
                    continue
                stem, dot, suffix = name.name.partition(".")
                if not stem or member.size < 0:
                    raise DataError(f"{member.name!r} has no name or no size; pack it anew")
                key, suffix = str(name.with_name(stem)), (dot + suffix).lower()
                if suffix in keys[key] or member.issparse():
                    what = "is sparse" if member.issparse() else "stands twice"
                    raise DataError(f"{member.name} {what} in the shard; pack it anew")
                keys[key][suffix] = Place(path, member.name, member.offset_data, member.size)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error}); check the name") from error
    except (tarfile.TarError, ValueError, MemoryError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        reason = str(error) or type(error).__name__
        raise DataError(f"is truncated or no tar file ({reason}); fetch it again") from error
    return keys


def pictures(parts: Parts) -> list[str]:
    return [suffix for suffix in parts if suffix in SUFFIXES]


def _finding(parts: Parts, origin: str, source: Source) -> Finding:
    try:
        return _record(parts, origin, source)
    except DataError as error:
        return Fault(f"{origin}: {error}")


def _record(parts: Parts, origin: str, source: Source) -> Record:
    found = pictures(parts)
    if len(found) > 1:
        raise DataError(f"has the pictures {' and '.join(found)}; leave one of them")
    fields = json_object(parts[".json"].read()) if ".json" in parts else {}
    captions = (*captions_in(parts), *captions_among(fields))
    unique = tuple(dict.fromkeys(captions))  # tools that write shards give the caption twice
    given = {name: value for name, value in fields.items() if value is not None}
    return finish(Draft(origin, parts[found[0]], unique, given, parts.get(MASK)), source)


def captions_in(parts: Parts) -> tuple[str, ...]:
    return lines(parts[".txt"].read()) if ".txt" in parts else ()


def captions_among(fields: Mapping[str, Any]) -> tuple[str, ...]:
    values = [fields[name] for name in CAPTION_FIELDS if fields.get(name) is not None]
    return tuple(text for value in values for text in texts(value))
