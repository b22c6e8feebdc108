"""Writing a file so that it is whole or absent, whatever happens meanwhile.

Into a temporary file beside the target, flushed to the disk, then renamed. No torch.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from danqing.errors import OutputError

_REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "create that folder first or choose another one",
}


def write(
    path: str | os.PathLike[str], fill: Callable[[BinaryIO], object], *, overwrite: bool = True
) -> None:
    """Let ``fill`` write the content of ``path``.

    Raises:
        OutputError: the file exists and ``overwrite`` is off (its cause is then a
            ``FileExistsError``), or the folder cannot be written, or is full.
    """
    try:
        _publish(fill, Path(path), overwrite)
    except FileExistsError as error:
        raise OutputError(f"{path} exists; choose another name or allow overwriting") from error
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: str | os.PathLike[str], error: OSError) -> OutputError:
    """The system's refusal to write ``path``, told with its remedy."""
    remedy = _REMEDIES.get(error.errno or 0, "choose a folder that you may write to")
    return OutputError(f"cannot write {os.fspath(path)}: {error.strerror or error}; {remedy}")


def _publish(fill: Callable[[BinaryIO], object], path: Path, overwrite: bool) -> None:
    temporary = path.with_name(f".danqing-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _move_to_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _move_to_new(temporary: Path, path: Path) -> None:
    """A rename that refuses to replace: `os.rename` would replace in silence on POSIX."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where the system can; the data already do."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
