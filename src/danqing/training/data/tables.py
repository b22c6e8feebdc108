"""A metadata file, JSONL or CSV: one picture per line, by a path relative to the file's folder.

Also what a Hugging Face imagefolder is described by. The fields are ``file_name`` (or ``image``,
``image_path``), ``caption`` (or ``text``, ``prompt``), and ``mask``, ``weight`` and ``repeats``.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from danqing.errors import DataError
from danqing.training.data.findings import (
    CAPTION_FIELDS,
    Draft,
    Fault,
    Finding,
    Note,
    decoded,
    finish,
    one_of,
    texts,
)
from danqing.training.data.records import Place, Source

TABLES = (".jsonl", ".csv")
IMAGE_FIELDS = ("file_name", "image", "image_path")
NUMBER_FIELDS = ("repeats", "weight")
FIELDS = (*IMAGE_FIELDS, *CAPTION_FIELDS, *NUMBER_FIELDS, "mask")
Row = tuple[int, dict[str, Any] | DataError]  # the number of its line, and what stands there


def read_table(path: Path, source: Source) -> Iterator[Finding]:
    """The pictures that a metadata file names, in its order."""
    rows = csv_rows if path.suffix.lower() == ".csv" else jsonl_rows
    idle: dict[str, None] = {}
    number = 0
    try:
        for number, row in rows(Place(path).read()):
            if isinstance(row, DataError):
                yield Fault(f"{path} line {number}: {row}")
                continue
            idle |= dict.fromkeys(name for name in row if name not in FIELDS)
            yield _finding(row, path, f"{path} line {number}", source)
    except DataError as error:
        yield Fault(f"{path}: {error}")
        return
    if not number:
        yield Fault(f"{path}: names no picture; write one per line")
    if idle:
        yield Note(f"{path}: the fields {', '.join(idle)} have no effect")


def _finding(row: Mapping[str, Any], path: Path, origin: str, source: Source) -> Finding:
    given = {name: value for name, value in row.items() if value is not None}
    try:
        image = one_of(given, IMAGE_FIELDS)
        if image is None:
            raise DataError(f"names no picture; give its path as {IMAGE_FIELDS[0]}")
        caption = one_of(given, CAPTION_FIELDS)
        mask = beside(path, given["mask"]) if "mask" in given else None
        captions = () if caption is None else texts(caption)
        return finish(Draft(origin, beside(path, image), captions, given, mask), source)
    except DataError as error:
        return Fault(f"{origin}: {error}")


def beside(table: Path, name: Any) -> Place:
    """The file of this name in the table's folder; metadata of others may name no other place."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise DataError(f"{name!r} is no path of a picture")
    # Windows parts names at slashes of both kinds, so a table means the same on every system.
    foreign = PureWindowsPath(name)
    if foreign.drive or foreign.root or ".." in foreign.parts:
        raise DataError(f"{name!r} leaves the folder of {table.name}; name a file within it")
    return Place(table.parent / name)


# ---- lines ------------------------------------------------------------------------------------


def jsonl_rows(content: bytes) -> Iterator[Row]:
    """One object per line; blank lines are passed over."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            try:
                yield number, json_object(line)
            except DataError as error:
                yield number, error


def json_object(content: bytes) -> dict[str, Any]:
    """An object whose fields stand once; DataError for anything else."""
    try:
        value = json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise DataError(f"{error.reason}; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError('must be an object, for example {"file_name": "a.png", "text": "a fox"}')
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a field stands twice in one object")
    return dict(pairs)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def csv_rows(content: bytes) -> Iterator[Row]:
    """Rows under a header; an empty cell is a field that is not given."""
    reader = csv.reader(io.StringIO(decoded(content), newline=""), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _header(cells)
            elif len(cells) != len(header):
                told = DataError(f"has {len(cells)} cells, the header has {len(header)}")
                yield reader.line_num, told
            else:
                yield reader.line_num, _cells(header, cells)
    except csv.Error as error:
        yield reader.line_num, DataError(f"not CSV ({error})")


def _header(cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(set(names)) < len(names):
        raise DataError(f"the header {', '.join(names)} has a name twice")
    if not set(names) & set(IMAGE_FIELDS):
        raise DataError(f"the header {', '.join(names)} has no {IMAGE_FIELDS[0]}")
    return names


def _cells(header: list[str], cells: list[str]) -> dict[str, Any]:
    read = {**dict.fromkeys(CAPTION_FIELDS, _listed), **dict.fromkeys(NUMBER_FIELDS, _number)}
    named = zip(header, cells, strict=True)
    return {name: read.get(name, str)(cell) for name, cell in named if cell}


def _listed(cell: str) -> Any:
    """Several captions in one cell are a JSON list; any other text is one caption."""
    try:
        return json.loads(cell) if cell.startswith('["') else cell
    except ValueError:
        return cell


def _number(cell: str) -> Any:
    """The number that a cell means; any other text as it is, to be shown in the error."""
    try:
        return int(cell) if cell.strip().isdecimal() else float(cell)
    except ValueError:
        return cell
