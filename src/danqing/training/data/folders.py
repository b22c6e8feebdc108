"""A folder of pictures: captions in a ``.txt`` beside each, a mask in a ``.mask.png``.

Subfolders are searched as well. Files that are hidden or have another suffix are no one's concern,
but a caption or a mask without its picture is told.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from danqing.errors import DataError
from danqing.training.data.faults import named
from danqing.training.data.findings import (
    MASK,
    SUFFIXES,
    Draft,
    Fault,
    Finding,
    Note,
    finish,
    is_picture,
    lines,
)
from danqing.training.data.records import Place, Record, Source


def read_folder(folder: Path, source: Source) -> Iterator[Finding]:
    """The pictures in a folder, in the order of their names."""
    files = files_under(folder)
    texts = [path for path in files if path.suffix.lower() == ".txt"]
    parts = [path for path in files if path.name.lower().endswith(MASK)]
    captions, masks = ({stem(path): path for path in own} for own in (texts, parts))
    pictures = [path for path in files if is_picture(path.name)]
    if not pictures:
        yield Fault(f"{folder}: holds no picture; a picture ends in {', '.join(SUFFIXES)}")
    for path in pictures:
        try:
            yield _record(path, captions.get(stem(path)), masks.get(stem(path)), source)
        except DataError as error:
            yield Fault(str(error))
    stems = {stem(path) for path in pictures}
    owns = [captions[stem(path)] for path in texts] + [masks[stem(path)] for path in parts]
    for path, own in zip((*texts, *parts), owns, strict=True):
        if stem(path) not in stems:
            yield Note(f"{path} has no picture beside it and is left aside")
        elif path != own:  # they differ in the case of their suffixes
            yield Fault(f"{path} and {own} belong to one picture; leave one of them out")


def _record(path: Path, captions: Path | None, mask: Path | None, source: Source) -> Record:
    texts: tuple[str, ...] = ()
    if captions is not None:
        with named(str(captions)):
            texts = lines(Place(captions).read())
    place = None if mask is None else Place(mask)
    return finish(Draft(str(path), Place(path), texts, {}, place), source)


def stem(path: Path) -> Path:
    """What a picture shares with its captions and its mask."""
    if path.name.lower().endswith(MASK):
        return path.with_name(path.name[: -len(MASK)])
    return path.with_suffix("")


def files_under(folder: Path) -> list[Path]:
    """All files but hidden ones, in an order that does not depend on the file system.

    Raises:
        DataError: a folder cannot be looked into.
    """
    found = []
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot read {error.filename} ({error.strerror}); check the name")
