"""Writes a training down while it goes: log, TensorBoard, contact sheets, and a page at its end.

Stands between ``run.train`` and whoever watches: events pass through as they are.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danqing.errors import DanqingError, OutputError
from danqing.training import report, results, sheet
from danqing.training.journal import Journal
from danqing.training.loop import ASKED, TIME, Due, Evaluated, Event, Saved, Stepped
from danqing.training.run import Finished, Found, Planned, Quantised, Resumed, Sampled, Told
from danqing.training.settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image

SAMPLES = "samples"


def record(events: Iterable[Told], settings: Settings, command: str = "") -> Iterator[Told]:
    """The events, each written down before it is passed on.

    Args:
        events: of ``run.train`` with the same settings.
        command: the line that starts the training again, for the report.

    Raises:
        what the events raise; the log and the report say it as well.
    """
    with ExitStack() as stack:
        recorder = Recorder(settings, command, stack)
        try:
            for event in events:
                recorder.tell(event)
                yield event
        except DanqingError as error:
            recorder.fail(str(error))
            raise


class Recorder:
    """One training's journal, sheets and report. The journal is opened when the loop begins, since
    what it keeps of a log depends on the step from which it goes on."""

    def __init__(self, settings: Settings, command: str, stack: ExitStack) -> None:
        self._settings, self._command, self._stack = settings, command, stack
        self._folder = results.run_folder(settings)
        self._facts: dict[str, Any] = {}
        self._predicted: int | None = None
        self._step = 0
        self._journal: Journal | None = None

    def tell(self, event: Told) -> None:
        match event:
            case Found():
                self._facts |= {
                    "pictures": event.learnt, "held out": event.held_out, "sizes": event.sizes
                }  # fmt: skip
            case Planned(plan=plan):
                self._facts |= {"trained parameters": plan.trained}
                self._predicted = plan.peak
            case Quantised(error=error):
                self._facts |= {"velocity's rounding": error}
            case Resumed(step=step):
                self._step = step
            case Sampled():
                self._sample(event)
            case Finished():
                self._finish(event)
            case Stepped() | Evaluated() | Saved() | Due():
                self._loop(event)

    def fail(self, reason: str) -> None:
        if self._journal is not None:
            with suppress(OutputError):  # on a full disk the reason is still told to the caller
                self._journal.end(reason, predicted=self._predicted)
                report.write(self._folder)

    # ---- the parts ------------------------------------------------------------------------

    def _opened(self) -> Journal:
        if self._journal is None:
            self._journal = self._stack.enter_context(Journal(self._folder, self._step))
            self._journal.start(
                self._settings.plain(),
                facts=self._facts,
                command=self._command,
                predicted=self._predicted,
            )
        return self._journal

    def _loop(self, event: Event) -> None:
        self._opened().tell(event)

    def _sample(self, event: Sampled) -> None:
        """A sheet for each way of sampling: a row for each prompt, a column for each seed."""
        journal, own = self._opened(), self._settings
        folder = self._folder / SAMPLES
        folder.mkdir(exist_ok=True)
        for way, images in event.rows.items():
            path = folder / f"{event.step:06d}-{way.replace(' ', '-')}.png"
            rows = split(images, len(own.sample_seeds))
            seeds = [f"seed {seed}" for seed in own.sample_seeds]
            sheet.write(path, rows, own.prompts, seeds, f"step {event.step}, {way}")
            journal.sample(event.step, path, named(way, own, rows), title=way)
        report.write(self._folder)

    def _finish(self, event: Finished) -> None:
        files = {str(path): self._what(path) for path in event.paths}
        self._opened().end(ended(event), peak=event.peak, predicted=event.planned, files=files)
        report.write(self._folder)

    def _what(self, path: Path) -> str:
        if path == results.best_path(self._settings):
            return "the weights with the best held-out loss"
        return "the averaged weights at the last step" if self._settings.ema else "the last weights"


def ended(event: Finished) -> str:
    return event.reason + ("; the same command goes on" if event.reason in (ASKED, TIME) else "")


def split(images: "list[Image]", columns: int) -> "list[list[Image]]":
    return [images[i : i + columns] for i in range(0, len(images), columns)]


def named(way: str, settings: Settings, rows: "list[list[Image]]") -> "Mapping[str, Image]":
    """For TensorBoard: one series of pictures for each prompt and seed."""
    return {
        f"{way}/{prompt[:60]}/{seed}": image
        for prompt, row in zip(settings.prompts, rows, strict=True)
        for seed, image in zip(settings.sample_seeds, row, strict=True)
    }
