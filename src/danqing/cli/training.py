"""A training, as a person sees it: notes and a bar on stderr, files on stdout; or JSON lines."""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from danqing.cli.terminal import console, note, say, say_json, watched
from danqing.engine import resolve_device
from danqing.previews import Previews, read_few_step
from danqing.training import results, run
from danqing.training.journal import finite
from danqing.training.loop import ASKED, Evaluated, Saved, Stepped
from danqing.training.plan import Plan
from danqing.training.record import SAMPLES, record
from danqing.training.report import REPORT
from danqing.training.run import (
    Encoding,
    Finished,
    Found,
    Planned,
    Quantised,
    Resumed,
    Sampled,
    Told,
)
from danqing.training.settings import Settings
from danqing.weights.plan import gigabytes

EVERY = 30.0  # seconds between two lines about steps, where there is no bar
MOST_SIZES = 6  # that are listed
MEMORY = 600.0  # seconds of steps that the time left is guessed from


def show_plan(settings: Settings, *, as_json: bool) -> None:
    """The memory plan: on stdout, since it is what was asked for."""
    found = run.outlook(settings, resolve_device(settings.device))
    if as_json:
        say_json({"event": "planned", **plan_record(found.plan), "free": found.free,
                  "savings": dict(found.savings)})  # fmt: skip
        return
    from rich.console import Console
    from rich.table import Table

    switched = "without checkpointing" if settings.checkpointing else "with checkpointing"
    table = Table("", "this training", switched)
    for name, own, other in zip(PARTS, parts(found.plan), parts(found.other), strict=True):
        table.add_row(name, gigabytes(own), gigabytes(other))
    for column in table.columns[1:]:
        column.justify = "right"
    Console().print(table)
    say(f"{found.plan.trained:,} parameters are trained, on {found.pack}")
    if found.free is not None:
        fits = "it fits" if found.fits else "it does not fit"
        say(f"{gigabytes(found.free)} are free: {fits}")
    for way, saved in found.savings:
        say(f"{way} saves {gigabytes(saved)}")


PARTS = ("weights", "adapter", "gradients", "optimiser", "averages", "activations", "peak")


def parts(plan: Plan) -> tuple[int, ...]:
    return (
        plan.weights,
        plan.adapter,
        plan.gradients,
        plan.optimiser,
        plan.average,
        plan.working - plan.gradients,
        plan.peak,
    )


def plan_record(plan: Plan) -> dict[str, int]:
    return {**asdict(plan), "gradients": plan.gradients, "peak": plan.peak}


class Watcher:
    """Follows one training and tells of it. As a context it keeps the terminal in order."""

    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        self._settings, self._as_json = settings, as_json
        self._device = resolve_device(settings.device)
        read_few_step(settings.few_step)  # its mistakes are to be known before the work
        self._bar = Bar()
        self._told_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def look(self) -> None:
        """All checks, and nothing written."""
        for event in run.survey(self._settings, self._device):
            self._tell(event)

    def train(self, command: str) -> None:
        events = run.train(self._settings, self._device, Previews)
        for event in record(events, self._settings, command):
            self._tell(event)

    # ---- the events -----------------------------------------------------------------------

    def _tell(self, event: Told) -> None:
        if self._as_json:
            say_json(finite({"event": type(event).__name__.lower(), **plain(event)}))
        else:
            self._show(event)
        if isinstance(event, Finished) and event.reason == ASKED:
            raise KeyboardInterrupt(f"saved at step {event.step}; the same command goes on")

    def _show(self, event: Told) -> None:
        match event:
            case Encoding(done=done, total=total):
                self._bar.show("encoding", done, total)
            case Stepped():
                self._step(event)
            case Sampled(step=step):
                folder = results.run_folder(self._settings) / SAMPLES
                self._note(f"step {step}: samples in {shown(folder)}")
            case Finished():
                self._finish(event)
            case _:
                for line in told(event):
                    self._note(line)

    def _step(self, event: Stepped) -> None:
        text = f"loss {event.loss:.4f}, {event.seconds:.2g} s a step"
        self._bar.show("training", event.step, self._settings.steps, text)
        now = time.monotonic()
        if not watched() and now - self._told_at > EVERY:
            self._told_at = now
            note(f"step {event.step} of {self._settings.steps}: {text}")

    def _finish(self, event: Finished) -> None:
        planned, peak = gigabytes(event.planned), gigabytes(event.peak)
        self._note(f"step {event.step}: {event.reason}; peak memory {peak}, planned {planned}")
        self._note(f"report: {shown(results.run_folder(self._settings) / REPORT)}")
        for path in event.paths:
            say(str(path))

    def _note(self, text: str) -> None:
        self._bar.stop()
        note(text)


def told(event: Told) -> Iterable[str]:
    """The lines about an event that needs no more than words."""
    match event:
        case Found():
            counts = f"{event.learnt} pictures to learn from, {event.held_out} kept apart"
            yield f"{counts}; {sizes(event.sizes)}"
        case Planned(plan=plan):
            yield f"{plan.trained:,} parameters are trained; about {gigabytes(plan.peak)} of memory"
        case Quantised(error=error):
            yield f"the frozen weights are in 8 bits; their velocity is off by {error:.2%}"
        case Resumed(step=step):
            yield f"goes on at step {step}"
        case Evaluated():
            yield evaluation(event)
        case Saved(step=step):
            yield f"step {step}: saved"


def evaluation(event: Evaluated) -> str:
    found = event.measured
    text = f"step {event.step}: held-out loss {found.loss:.4f}{band(found.low, found.high)}"
    if event.step:
        text += f", against the base {found.change:+.4f}{band(found.change_low, found.change_high)}"
    return text + (", the best so far" if event.best and event.step else "")


def band(low: float, high: float) -> str:
    """Of 95 %; a single picture has none."""
    return "" if math.isnan(low) else f" ({low:.4f} to {high:.4f})"


def sizes(counts: Mapping[str, int]) -> str:
    """``40 of 64x64, 3 of 80x48``; of many, the most frequent."""
    most = sorted(counts.items(), key=lambda pair: -pair[1])
    text = ", ".join(f"{count} of {size}" for size, count in most[:MOST_SIZES])
    return text + (f", and {len(most) - MOST_SIZES} more sizes" if len(most) > MOST_SIZES else "")


def plain(event: Told) -> dict[str, Any]:
    """An event as JSON holds it."""
    match event:
        case Planned(plan=plan):
            return plan_record(plan)
        case Sampled(step=step):
            return {"step": step, "ways": list(event.rows)}
        case Finished():
            return {**vars(event), "paths": [str(path) for path in event.paths]}
        case Evaluated():
            return {**vars(event), "measured": asdict(event.measured)}
    return dict(vars(event))


def shown(path: Path) -> str:
    """Relative to where we are, if it lies there."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


class Bar:
    """One bar on stderr at a time, for encoding and then for the steps, if a person watches."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._name = ""
        self._shown = False

    def show(self, name: str, done: int, total: int, text: str = "") -> None:
        if not watched():
            return
        if self._name != name:
            self.stop()
            self._name, self._bar = name, new_bar()
            self._task = self._bar.add_task(name, completed=done, total=total, text=text)
        if not self._shown:
            self._bar.start()
            self._shown = True
        self._bar.update(self._task, completed=done, total=total, text=text)

    def stop(self) -> None:
        """Wipe it, so that a line can be written in its place; ``show`` brings it back."""
        if self._shown:
            self._bar.stop()
            self._shown = False


def new_bar() -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console(),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        speed_estimate_period=MEMORY,
    )
