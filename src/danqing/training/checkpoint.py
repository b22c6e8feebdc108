"""What a training needs to go on: written whole, the last good one kept, and checked on return."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from danqing import atomic
from danqing.errors import TrainingError

STATE, BEFORE = "state.pt", "state-before.pt"


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def save(
    folder: Path, step: int, settings: Mapping[str, Any], parts: Mapping[str, Stateful]
) -> None:
    """Write the state; the one before is kept beside it until the next."""
    content = io.BytesIO()
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"step": step, "settings": json.dumps(dict(settings)), "parts": states}, content)
    data = content.getvalue()
    stamp = hashlib.sha256(data).digest()  # a state that was cut short is known by it
    current = folder / STATE
    try:
        if current.exists():
            current.replace(folder / BEFORE)
    except OSError as error:
        raise atomic.unwritable(folder / BEFORE, error) from error
    atomic.write(current, lambda file: file.write(stamp + data))


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
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            return opened(content[32:], folder / name)
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
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    if not whole(folder / STATE):  # or the next save would put it in the good one's place
        (folder / STATE).unlink(missing_ok=True)
    return int(state["step"])


def whole(path: Path) -> bool:
    content = path.read_bytes() if path.exists() else b""
    return hashlib.sha256(content[32:]).digest() == content[:32]


def plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))
