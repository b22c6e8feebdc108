"""A distillation, as a person sees it: notes and a bar on stderr, the file on stdout; or JSON."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from danqing.cli.terminal import note, say, say_json, watched
from danqing.cli.training import EVERY, Bar, shown
from danqing.engine import resolve_device
from danqing.previews import Decoder
from danqing.training import results
from danqing.training.distill import run
from danqing.training.distill.loop import Evaluated, Stepped
from danqing.training.distill.plan import outlook
from danqing.training.distill.record import record
from danqing.training.distill.run import Noded, Sampled, Told, Travelled
from danqing.training.distill.settings import DistillSettings
from danqing.training.journal import finite
from danqing.training.loop import ASKED, Saved
from danqing.training.record import SAMPLES
from danqing.training.report import REPORT
from danqing.training.run import Encoding, Finished, Resumed
from danqing.weights.plan import gigabytes


def show_plan(settings: DistillSettings, *, as_json: bool) -> None:
    """Memory and hours by phase: on stdout, since they are what was asked for."""
    found = outlook(settings, resolve_device(settings.device))
    rows = [{**vars(phase), "hours": found.cost.hours(phase)} for phase in found.phases]
    if as_json:
        whole = {"peak": found.peak, "hours": found.hours, "weights": found.weights}
        told = {"event": "planned", "phases": rows, "trained": found.trained}
        say_json({**told, **whole, **vars(found.cost)})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("phase", "memory", "evaluations", "with gradients", "hours")
    for phase, row in zip(found.phases, rows, strict=True):
        counts = (f"{phase.plain:,}", f"{phase.learnt:,}", f"{row['hours']:.3g}")
        table.add_row(phase.name, gigabytes(phase.memory), *counts)
    for column in table.columns[1:]:
        column.justify = "right"
    Console().print(table)
    say(f"{found.trained:,} parameters are trained, on {found.pack}; {found.hours:.3g} hours")
    say(f"measured here for one picture: {found.cost.plain:.3g} s, {found.cost.learnt:.3g} s "
        "with gradients, from a network of two blocks")  # fmt: skip


class Watcher:
    """Follows one distillation and tells of it. As a context it keeps the terminal in order."""

    def __init__(self, settings: DistillSettings, *, as_json: bool) -> None:
        self._settings, self._as_json = settings, as_json
        self._device = resolve_device(settings.device)
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

    def distill(self, command: str) -> None:
        events = run.distill(self._settings, self._device, Decoder)
        for event in record(events, self._settings, command):
            self._tell(event)

    # ---- the events ---------------------------------------------------------------------------

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
            case Travelled(done=done, total=total):
                self._bar.show("the teacher's trajectories", done, total)
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
        losses = ", ".join(f"{name} {value:.4g}" for name, value in event.losses.items())
        text = f"{losses}, {event.seconds:.2g} s a step"
        self._bar.show(event.phase, event.step, self._settings.total, text)
        now = time.monotonic()
        if not watched() and now - self._told_at > EVERY:
            self._told_at = now
            note(f"step {event.step} of {self._settings.total}: {event.phase}, {text}")

    def _finish(self, event: Finished) -> None:
        self._note(f"step {event.step}: {event.reason}; peak memory {gigabytes(event.peak)}")
        self._note(f"report: {shown(results.run_folder(self._settings) / REPORT)}")
        for path in event.paths:
            say(str(path))

    def _note(self, text: str) -> None:
        self._bar.stop()
        note(text)


def told(event: Told) -> Iterable[str]:
    """The lines about an event that needs no more than words."""
    match event:
        case Noded(nodes=nodes):
            yield f"the student's noise levels: {', '.join(f'{node:.4g}' for node in nodes)}"
        case Resumed(step=step):
            yield f"goes on at step {step}"
        case Evaluated(step=step, figures=found, back=back):
            yield (
                f"step {step}: cosine {found.cosine:.3f} to the teacher's latents, squared "
                f"distance {found.error:.4f}, drift {found.drift:.2g}, loss of the fake score "
                f"{found.fake:.3f} of the teacher's"
            )
            if back is not None:
                yield f"step {step}: that is astray; back to step {back}, at half the rate"
        case Saved(step=step):
            yield f"step {step}: saved"


def plain(event: Told) -> dict[str, Any]:
    """An event as JSON holds it."""
    match event:
        case Sampled(step=step):
            return {"step": step, "ways": list(event.rows)}
        case Finished():
            return {**vars(event), "paths": [str(path) for path in event.paths]}
        case Evaluated():
            return {"step": event.step, **vars(event.figures), "back": event.back}
    return dict(vars(event))
