"""What training data are made of: the sources that a person names, the records found in them."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from danqing.errors import DataError


@dataclass(frozen=True)
class Source:
    """Where pictures are: a folder, a metadata file or a tar shard.

    Attributes:
        path: as the person wrote it; errors show it so.
        repeats: how often each picture comes in an epoch.
        weight: what its loss counts, 1 being the usual.
        caption: stands in for a picture without one, a trigger word for example.
    """

    path: str | Path
    repeats: int = 1
    weight: float = 1.0
    caption: str | None = None


@dataclass(frozen=True)
class Place:
    """Bytes that can be read again: a file, or ``size`` bytes of a tar shard from ``offset`` on."""

    path: Path
    member: str = ""
    offset: int = 0
    size: int = 0

    def open(self) -> BinaryIO:
        """A file object at its beginning. DataError where there is nothing to open."""
        try:
            if not self.member and self.path.exists() and not self.path.is_file():
                raise DataError(f"{self.path} is no plain file; replace it")  # a pipe would hang
            return io.BytesIO(self._member()) if self.member else self.path.open("rb")
        except OSError as error:
            raise DataError(
                f"cannot read {self.path} ({error.strerror or error}); check the name"
            ) from error

    def read(self) -> bytes:
        """All bytes; DataError where they cannot be read."""
        with self.open() as file:
            try:
                return file.read()
            except OSError as error:
                raise DataError(f"cannot read {self.path} ({error.strerror or error})") from error

    def _member(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise DataError(f"{self.path} ends within {self.member}; fetch the shard again")
        return content


@dataclass(frozen=True)
class Record:
    """A picture to learn from.

    Attributes:
        origin: the words that name its place in an error: a file, a line, a shard and its key.
        image: the picture's bytes.
        captions: one or several texts, each of which describes the picture.
        repeats: how often it comes in an epoch.
        weight: what its loss counts.
        mask: a grey picture of the same framing: white counts fully, black does not.
    """

    origin: str
    image: Place
    captions: tuple[str, ...]
    repeats: int = 1
    weight: float = 1.0
    mask: Place | None = None
