"""What a training needs to go on: written whole, the last good one kept, and checked on return."""

import hashlib
import io
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import torch

from danqing import atomic
from danqing.errors import TrainingError

STATE, BEFORE = "state.pt", "state-before.pt"
STAMP = 32  # bytes of a SHA-256


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def save(
    folder: Path, step: int, settings: Mapping[str, Any], parts: Mapping[str, Stateful]
) -> None:
    """Write the state; the one before is kept beside it until the next."""
    states = {name: part.state_dict() for name, part in parts.items()}
    state = {"step": step, "settings": json.dumps(dict(settings)), "parts": states}
    current = folder / STATE
    try:
        if current.exists():
            current.replace(folder / BEFORE)
    except OSError as error:
        raise atomic.unwritable(folder / BEFORE, error) from error
    atomic.write(current, partial(write, state))


def write(state: Mapping[str, Any], file: BinaryIO) -> None:
    """The state, then the SHA-256 of it, by which one that was cut short is known.

    It goes to the file as it comes: of all weights a copy would be as large as the training.
    """
    stamped = Stamped(file)
    try:
        torch.save(state, cast(BinaryIO, stamped))
    except RuntimeError as error:  # torch's own, in place of what the system said
        raise stamped.failure or error from error
    file.write(stamped.digest())


class Stamped:
    """A file that is only written to, with the SHA-256 of all that was."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, content: Any) -> int:
        self._hash.update(content)
        try:
            return self._file.write(content)
        except OSError as error:
            self.failure = self.failure or error
            raise

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> bytes:
        return self._hash.digest()


def exists(folder: Path) -> bool:
    """Whether a state was ever saved there, whole or not."""
    return any((folder / name).exists() for name in (STATE, BEFORE))


def load(folder: Path) -> dict[str, Any] | None:
    """The newest whole state, if there is one.

    Raises:
        TrainingError: there are states, but none of them can be used.
    """
    damaged = []
    for name in (STATE, BEFORE):
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise TrainingError(f"cannot read {folder / name}: {error.strerror}") from error
        if is_whole(content):
            return opened(content[:-STAMP], folder / name)
        damaged.append(name)
    if damaged:
        raise TrainingError(
            f"{' and '.join(damaged)} in {folder} {'is' if len(damaged) == 1 else 'are'} damaged; "
            f"delete {folder} to begin anew"
        )
    return None


def opened(content: bytes, path: Path) -> dict[str, Any]:
    """The state in a file; a GPU's tensors come to the CPU, and go on where they belong."""
    try:
        # Only tensors and plain values: nothing in the file is run.
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file of another making leads to
        raise TrainingError(f"{path} is no state of a training; delete it") from error
    if not isinstance(state, dict) or not {"step", "settings", "parts"} <= state.keys():
        raise TrainingError(f"{path} is no state of this version; delete it to begin anew")
    return state


def resume(
    folder: Path,
    settings: Mapping[str, Any],
    parts: Mapping[str, Stateful],
    free: frozenset[str],
) -> int:
    """Restore the parts from the folder's state, if it has one; the step to go on from.

    ``free`` are settings that may differ from the state's.

    Raises:
        TrainingError: the state was made with other settings; it says which.
    """
    state = load(folder)
    if state is None:
        return 0
    refuse_others(folder, state, settings, free)
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    path = folder / STATE
    if path.exists() and not is_whole(path.read_bytes()):
        path.unlink()  # or the next save would put it in the good one's place
    return int(state["step"])


def check(folder: Path, settings: Mapping[str, Any], free: frozenset[str]) -> None:
    """What ``resume`` would refuse, refused before anything slow is done."""
    state = load(folder)
    if state is not None:
        refuse_others(folder, state, settings, free)


def refuse_others(
    folder: Path, state: Mapping[str, Any], settings: Mapping[str, Any], free: frozenset[str]
) -> None:
    then = json.loads(state["settings"])
    names = sorted((set(then) | set(settings)) - free)
    changed = [
        f"{n} was {then.get(n)!r} and is {plain(settings.get(n))!r}"
        for n in names
        if then.get(n) != plain(settings.get(n))
    ]
    if changed:
        raise TrainingError(
            f"{folder} holds a training with other settings ({'; '.join(changed[:5])}); "
            "go on with the same ones, or name another --out"
        )


def is_whole(content: bytes) -> bool:
    view = memoryview(content)
    return len(content) > STAMP and hashlib.sha256(view[:-STAMP]).digest() == content[-STAMP:]


def plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))
