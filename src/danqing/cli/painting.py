"""A model at work, as a person sees it: a spinner while it loads, a bar while it paints."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

import danqing
from danqing.cli import fields
from danqing.cli.terminal import busy, console, watched
from danqing.types import Progress, Request, Result

if TYPE_CHECKING:
    from danqing.engine import Pipeline

_MEMORY = 3600.0  # seconds of steps that the time left is guessed from; a step may take minutes


def open_model(
    model: str,
    device: str | None,
    dtype: str | None,
    threads: str | None,
    *,
    throughput: bool = False,
) -> "Pipeline":
    """``danqing.load`` with a spinner."""
    num_threads = None
    if threads is not None:
        num_threads = fields.parse(fields.count, fields.number(threads), "--threads")
    with busy(f"loading {model}"):
        return danqing.load(
            model, device=device, dtype=dtype, threads=num_threads, throughput=throughput
        )


def paint(pipe: "Pipeline", requests: Sequence[Request]) -> Iterator[Result]:
    """The results as they are finished; while the caller handles one, the bar is out of its way.

    The requests are whole, as ``jobs.check`` returns them: the bar counts their steps.
    """
    with _Bar(requests) as bar:
        for event in pipe.stream(requests):
            if isinstance(event, Progress):
                bar.step(event)
                continue
            bar.finish(event)
            with bar.hidden():
                yield event


class _Bar:
    """All steps of all pictures as one bar on stderr. The decode counts as one step more."""

    def __init__(self, requests: Sequence[Request]) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichBar

        self._totals = [(request.steps or 0) + 1 for request in requests]
        self._done = [0] * len(requests)
        self._finished = 0
        self._bar = RichBar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn(f"{{task.fields[finished]}}/{len(requests)} pictures"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console(),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            speed_estimate_period=_MEMORY,
            disable=not watched(),
        )
        self._task = self._bar.add_task("painting", total=sum(self._totals), finished=0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stop()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """The bar wiped from the terminal, so that a line can be written in its place."""
        self._stop()
        yield
        self._bar.start()

    def step(self, event: Progress) -> None:
        """A step of some pictures."""
        for index in event.indices:
            self._done[index] = event.step
            self._totals[index] = event.steps + 1
        self._draw(f"step {event.step}/{event.steps}")

    def finish(self, event: Result) -> None:
        """A finished picture."""
        self._done[event.index] = self._totals[event.index]
        self._finished += 1
        self._draw(None)

    def _draw(self, description: str | None) -> None:
        self._bar.update(
            self._task,
            completed=sum(self._done),
            total=sum(self._totals),
            description=description,
            finished=self._finished,
        )

    def _stop(self) -> None:
        if not self._bar.disable:  # rich would write an empty line
            self._bar.stop()
