"""Writes a distillation down while it goes: log, TensorBoard, contact sheets, and a page.

Stands between ``run.distill`` and whoever watches: events pass through as they are.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

from danqing.errors import DanqingError, OutputError
from danqing.training import report, results, sheet
from danqing.training.distill.loop import Evaluated, Stepped
from danqing.training.distill.report import page
from danqing.training.distill.run import Noded, Sampled, Told
from danqing.training.distill.settings import DistillSettings
from danqing.training.journal import Journal
from danqing.training.loop import Saved
from danqing.training.record import SAMPLES, ended, split
from danqing.training.run import Finished, Resumed


def record(events: Iterable[Told], settings: DistillSettings, command: str = "") -> Iterator[Told]:
    """The events, each written down before it is passed on.

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
    """One distillation's journal, sheets and report."""

    def __init__(self, settings: DistillSettings, command: str, stack: ExitStack) -> None:
        self._settings, self._command, self._stack = settings, command, stack
        self._folder = results.run_folder(settings)
        self._facts: dict[str, Any] = {}
        self._step = 0
        self._journal: Journal | None = None

    def tell(self, event: Told) -> None:
        match event:
            case Noded(nodes=nodes):
                levels = [round(node, 4) for node in nodes]
                self._facts[f"noise levels of {len(nodes)} steps"] = levels
            case Resumed(step=step):
                self._step = step
            case Stepped(step=step, losses=losses):
                told = {"phase": event.phase, "norm": event.norm, "seconds": event.seconds}
                self._opened().note("step", step, {**told, **losses})
            case Evaluated(step=step, figures=figures, back=back):
                self._opened().note("evaluation", step, {**vars(figures), "back": back})
            case Saved(step=step):
                self._opened().note("saved", step, {})
                report.write(self._folder, page)
            case Sampled():
                self._sample(event)
            case Finished():
                files = {str(path): "the averaged student" for path in event.paths}
                self._opened().end(ended(event), peak=event.peak, files=files)
                report.write(self._folder, page)

    def fail(self, reason: str) -> None:
        if self._journal is not None:
            with suppress(OutputError):  # on a full disk the reason is still told to the caller
                self._journal.end(reason)
                report.write(self._folder, page)

    def _opened(self) -> Journal:
        if self._journal is None:
            self._journal = self._stack.enter_context(Journal(self._folder, self._step))
            self._journal.start(
                self._settings.plain(),
                facts=self._facts,
                command=self._command,
                total=self._settings.total,
            )
        return self._journal

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
            journal.sample(event.step, path, {}, title=way)
        report.write(self._folder, page)
