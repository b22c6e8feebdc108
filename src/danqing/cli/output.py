"""Where pictures go: a folder that is known to be writable before work starts, and free names."""

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from danqing import atomic
from danqing import recipe as recipes
from danqing.cli.names import numbered
from danqing.errors import OutputError

if TYPE_CHECKING:
    from PIL.Image import Image

_OTHER_FORMATS = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


class Output:
    """The place named by ``--out``: a folder, or one ``.png`` file.

    Entering makes the folder and tries to write there; leaving removes again what it made, if it
    holds nothing.
    """

    def __init__(self, out: str, *, count: int, overwrite: bool) -> None:
        self._file = _as_file(out, count)
        self._folder = self._file.parent if self._file else Path(out)
        self._overwrite = overwrite
        self._made: list[Path] = []
        self._taken: set[Path] = set()

    def __enter__(self) -> Self:
        if self._file and os.path.lexists(self._file) and not self._overwrite:
            raise OutputError(f"{self._file} exists; give another --out, or --overwrite")
        try:
            self._make_folder()
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            self._remove_empty()
            raise atomic.unwritable(self._folder, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_empty()

    def reserve(self, stems: Sequence[str]) -> list[Path]:
        """A path for each stem, all different, in the order given and so independent of the order
        in which the pictures will be finished."""
        return [self._file] if self._file else [self._free(stem) for stem in stems]

    def save(self, image: "Image", recipe: Mapping[str, Any], path: Path) -> Path:
        """Write to the reserved path, or to the next free name if another program took it."""
        stem = path.stem
        while True:
            try:
                recipes.save_png(image, recipe, path, overwrite=self._overwrite)
                return path
            except OutputError as error:
                if self._file or not isinstance(error.__cause__, FileExistsError):
                    raise
            path = self._free(stem)

    def _free(self, stem: str) -> Path:
        for name in numbered(stem):
            path = self._folder / f"{name}.png"
            exists = os.path.lexists(path) and not self._overwrite
            if path not in self._taken and not exists:
                self._taken.add(path)
                return path
        raise AssertionError("numbers do not end")

    def _make_folder(self) -> None:
        missing = []
        folder = self._folder
        while not os.path.lexists(folder):
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            folder.mkdir()
            self._made.append(folder)

    def _remove_empty(self) -> None:
        with contextlib.suppress(OSError):  # one that holds pictures refuses, and stays
            for folder in reversed(self._made):
                folder.rmdir()


def _as_file(out: str, count: int) -> Path | None:
    """The path, if ``out`` names a file rather than a folder."""
    path = Path(out)
    if out.endswith(("/", os.sep)) or path.is_dir():
        return None
    if path.suffix.lower() in _OTHER_FORMATS:
        raise OutputError(f"--out {out}: pictures are written as PNG; give a folder or a .png name")
    if path.suffix.lower() != ".png":
        return None
    if count != 1:
        raise OutputError(
            f"--out {out} names one file, but {count} pictures are asked for; give a folder"
        )
    return path
