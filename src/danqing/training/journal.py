"""What happened in a training, line by line in ``log.jsonl``, and for TensorBoard if it is there.

Each line is a JSON object with its ``kind`` and ``step``. A resumed training goes on with the log
as it was at its step, whatever a killed one had logged after it. Does not know how reports look.

    start       settings, facts, command, predicted_bytes
    step        loss, prior, rate, norm, seconds
    evaluation  loss, low, high, change, change_low, change_high, by_sigma, best
    sample      sheet (a file of the folder), title
    saved
    end         reason, peak_bytes, predicted_bytes, files
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from danqing import atomic
from danqing.training.loop import Due, Evaluated, Event, Saved, Stepped
from danqing.training.measure import SIGMAS, Measured

if TYPE_CHECKING:
    from PIL.Image import Image

LOG, TENSORBOARD = "log.jsonl", "tensorboard"
NO_TENSORBOARD = "TensorBoard is not installed: the curves are in log.jsonl and the report only"

Line = dict[str, Any]


class Journal:
    """Writes down a training that begins at ``resume_step``, in its folder.

    Raises:
        OutputError: the folder cannot be written, or is full; so do all of the methods.
    """

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        self._path, self._step = folder / LOG, resume_step
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            trim(self._path, resume_step)
            self._file = self._path.open("ab")
            self._board = open_board(folder / TENSORBOARD, resume_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        with writing(self._path):
            self._file.close()
            if self._board is not None:
                self._board.close()

    # ---- the events -----------------------------------------------------------------------

    def start(
        self,
        settings: Mapping[str, Any],
        *,
        facts: Mapping[str, Any] | None = None,
        command: str = "",
        predicted: int | None = None,
        total: int | None = None,
    ) -> str | None:
        """It begins, or goes on; a note for the person who watches, if there is something to say.

        ``facts`` are shown as they are ({"pictures": 30}); ``command`` is the line that starts the
        training again; ``predicted`` is the planned peak of memory in bytes; ``total`` counts the
        steps, where the settings do not say.
        """
        told: dict[str, Any] = {"settings": settings, "facts": facts or {}, "command": command}
        told |= {"total": total} if total else {}
        self._append("start", self._step, {**told, "predicted_bytes": predicted})
        return NO_TENSORBOARD if self._board is None else None

    def tell(self, event: Event) -> None:
        """An event of the loop; samples that are due are told with ``sample`` once painted."""
        match event:
            case Stepped(step=step):
                told = {name: value for name, value in vars(event).items() if name != "step"}
                self._append("step", step, told)
                self._draw(step, {f"train/{name}": value for name, value in told.items()})
            case Evaluated(step=step, measured=found, best=best):
                self._append("evaluation", step, {**evaluation(found), "best": best})
                self._draw(step, {"held_out/loss": found.loss, "held_out/change": found.change})
            case Saved(step=step):
                self._append("saved", step, {})
            case Due():
                pass

    def note(self, kind: str, step: int, told: Mapping[str, Any]) -> None:
        """A line of another kind of run; its numbers are drawn."""
        self._append(kind, step, told)
        scalars = {name: value for name, value in told.items() if isinstance(value, int | float)}
        self._draw(step, {f"{kind}/{name}": float(value) for name, value in scalars.items()})

    def sample(
        self,
        step: int,
        sheet: Path,
        images: "Mapping[str, Image] | None" = None,
        *,
        title: str = "",
    ) -> None:
        """A contact sheet was written; ``images`` are shown by name in TensorBoard."""
        folder = self._path.parent
        inside = sheet.relative_to(folder) if sheet.is_relative_to(folder) else sheet
        self._append("sample", step, {"sheet": inside.as_posix(), "title": title})
        if self._board is not None:
            with writing(self._path):
                for name, image in (images or {}).items():
                    pixels = np.asarray(image.convert("RGB"))
                    self._board.add_image(f"samples/{name}", pixels, step, dataformats="HWC")
                self._board.flush()

    def end(
        self,
        reason: str,
        *,
        peak: int | None = None,
        predicted: int | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """It ends at the last step told: why, its memory in bytes, and its files by what they are.

        ``files`` maps a path to what it holds ({"mine.safetensors": "the adapter"}).
        """
        told = {"peak_bytes": peak, "predicted_bytes": predicted, "files": files or {}}
        self._append("end", self._step, {"reason": reason, **told})

    # ---- the parts ------------------------------------------------------------------------

    def _append(self, kind: str, step: int, told: Mapping[str, Any]) -> None:
        """One line, handed to the system whole: a killed process loses at most this one."""
        self._step = max(self._step, step)
        line = {"kind": kind, "step": step, **told}
        with writing(self._path):
            self._file.write(encoded(line))
            self._file.flush()

    def _draw(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._board is not None:
            with writing(self._path):
                for name, value in scalars.items():
                    self._board.add_scalar(name, value, step)
                self._board.flush()


def read(folder: Path) -> list[Line]:
    """The lines of the folder's log that are whole; none if there is no log."""
    try:
        content = (folder / LOG).read_bytes()
    except FileNotFoundError:
        return []
    return [line for line in map(decoded, content.split(b"\n")) if line]


# ---- lines ------------------------------------------------------------------------------------


def trim(path: Path, step: int) -> None:
    """Keep the whole lines up to the step; of a training that begins anew, none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    # Only at newlines: a prompt may hold other characters that end a line for `splitlines`.
    whole = [raw for raw in content.split(b"\n") if upto(decoded(raw), step)] if step else []
    kept = b"".join(raw + b"\n" for raw in whole)
    if kept != content:
        atomic.write(path, lambda file: file.write(kept))


def upto(line: Line | None, step: int) -> bool:
    return line is not None and line["step"] <= step


def encoded(line: Line) -> bytes:
    """As JSON; what is not finite is null, and half characters of file names stay readable."""
    text = json.dumps(finite(line), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def decoded(raw: bytes) -> Line | None:
    """The line, unless it is damaged or was written in half."""
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    sound = isinstance(line, dict) and isinstance(line.get("kind"), str)
    return line if sound and type(line.get("step")) is int else None


def finite(value: Any) -> Any:
    """The value as JSON can hold it."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(name): finite(own) for name, own in value.items()}
        case list() | tuple():
            return [finite(own) for own in value]
        case Path():
            return value.as_posix()
    return value


def evaluation(found: Measured) -> Line:
    by_sigma = {f"{s:g}": loss for s, loss in zip(SIGMAS, found.by_sigma, strict=True)}
    return {**vars(found), "by_sigma": by_sigma}


# ---- files ------------------------------------------------------------------------------------


def open_board(folder: Path, step: int) -> Any | None:
    """A writer for TensorBoard that hides what was drawn after the step, if it is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else 0)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise atomic.unwritable(path, error) from error
