"""Every picture that the sources name, as a list of records.

A folder is read by its ``metadata.jsonl`` or ``metadata.csv`` if it or a subfolder has one, else by
its ``*.tar`` shards if it has any, else as pictures with captions beside them.
"""

import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from danqing.errors import DataError
from danqing.training.data.check import faults_of
from danqing.training.data.faults import DataFaults
from danqing.training.data.findings import Fault, Finding, Note, count, is_picture, positive
from danqing.training.data.folders import files_under, read_folder
from danqing.training.data.records import Record, Source
from danqing.training.data.shards import read_shard
from danqing.training.data.tables import TABLES, read_table

SHARD = ".tar"
SHOWN = 5  # names of the pictures that are left aside


def gather(sources: Sequence[Source]) -> list[Record]:
    """The records of all sources, in an order that depends on nothing but their content.

    Warns of what is left aside: texts without a picture, pictures that metadata do not name.

    Raises:
        DataFaults: something cannot be read or is not understood. The pictures are checked then,
            so that the list of faults is whole; where it returns, ``check`` has still to be called.
    """
    if not sources:
        raise DataError("no training data; name a folder of pictures")
    found = [finding for source in sources for finding in find(source)]
    records = [finding for finding in found if isinstance(finding, Record)]
    faults = [finding.text for finding in found if isinstance(finding, Fault)]
    if faults:
        of_pictures = [fault for own in faults_of(records) for fault in own]
        raise DataFaults([*faults, *of_pictures])
    for finding in found:
        if isinstance(finding, Note):
            warnings.warn(finding.text, stacklevel=2)
    return records


def find(source: Source) -> Iterator[Finding]:
    """What one source holds."""
    path = Path(source.path).expanduser()
    try:
        check_source(source)
        if path.is_dir():
            yield from _in_folder(path, source)
        elif not path.exists():
            raise DataError("is not there; check the name")
        elif path.suffix.lower() == SHARD:
            yield from read_shard(path, source)
        elif path.suffix.lower() in TABLES:
            yield from read_table(path, source)
        else:
            raise DataError("is no folder and ends in none of .tar, .jsonl, .csv")
    except DataError as error:
        yield Fault(f"{source.path}: {error}")
    except (OSError, ValueError) as error:  # a name that no file system takes
        yield Fault(f"{source.path}: cannot be looked for ({error})")


def check_source(source: Source) -> None:
    count(source.repeats, "repeats")
    positive(source.weight, "weight")
    if source.caption is not None and not source.caption.strip():
        raise DataError("the default caption is blank; leave it out")


def _in_folder(folder: Path, source: Source) -> Iterator[Finding]:
    files = files_under(folder)
    tables = [path for path in files if path.stem == "metadata" and path.suffix in TABLES]
    shards = [path for path in files if path.suffix == SHARD]
    if not tables and not shards:
        yield from read_folder(folder, source)
        return
    _check_single(tables)
    read = read_table if tables else read_shard
    named: set[Path] = set()
    for path in tables or shards:
        for finding in read(path, source):
            if isinstance(finding, Record):
                named |= {place.path for place in (finding.image, finding.mask) if place}
            yield finding
    aside = [path for path in files if is_picture(path.name) and path not in named]
    if aside:
        what = "metadata" if tables else "shards"
        yield Note(f"{folder}: left aside, for the {what} do not name them: {listed(aside)}")


def _check_single(tables: Sequence[Path]) -> None:
    for parent, own in groupby(tables, key=lambda path: path.parent):
        names = [path.name for path in own]
        if len(names) > 1:
            raise DataError(f"{parent} has both {' and '.join(names)}; leave one of them out")


def listed(paths: Sequence[Path]) -> str:
    shown = ", ".join(str(path) for path in paths[:SHOWN])
    return shown if len(paths) <= SHOWN else f"{shown} and {len(paths) - SHOWN} more"
