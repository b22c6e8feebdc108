"""A distillation on one page: the same page as a training's, with its own numbers and curves."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from danqing.training import report
from danqing.training.curves import Curve, chart
from danqing.training.distill.settings import DistillSettings
from danqing.training.journal import Line
from danqing.training.report import Run, gather, number, numbers, rough, table, tile

CURVES = {
    "imitation": "Imitation: squared error of a segment's velocity",
    "fake": "The fake score's loss",
    "matching": "Length of the step towards the teacher",
    "guiding": "Length of the step that guidance adds",
}
FIGURES = {
    "error": "Squared distance to the teacher's latents",
    "cosine": "Cosine to the teacher's latents",
    "drift": "Drift of the channels",
    "fake": "Loss of the fake score over the teacher's, on the student's pictures",
}


def page(lines: Sequence[Line], folder: Path) -> str:
    """The page of these lines of a log; ``folder`` is where their sheets are."""
    run = gather(lines)
    own = {
        "title": escape(report.title(run)),
        "tiles": "".join(tiles(run)),
        "curves": "".join(curves(run)),
        "details_name": "Against the teacher, from the same noise",
        "details": evaluations(run),
        "settings": report.settings(run, DistillSettings().plain()),
    }
    return report.laid(run, folder, own)


def tiles(run: Run) -> Iterable[str]:
    if run.evaluations:
        last = run.evaluations[-1]
        below = f"held-out prompts, step {last['step']}; 1 is the same picture"
        yield tile("Cosine to the teacher", number(last, "cosine", ".3f"), below)
        yield tile("Drift", number(last, "drift", ".2g"), "in deviations of the teacher's channels")
    yield from report.speed(run)
    yield from report.memory(run)


def curves(run: Run) -> Iterable[str]:
    drawn = [chart(name, rough("each step", run.steps, column)) for column, name in CURVES.items()]
    x = numbers(run.evaluations, "step")
    drawn += [
        chart(name, [Curve("held-out prompts", x, numbers(run.evaluations, column))])
        for column, name in FIGURES.items()
    ]
    drawn.append(chart("Gradient norm", rough("before clipping", run.steps, "norm")))
    shown = "".join(drawn)
    yield (
        f'<div class="charts">{shown}</div>'
        if shown
        else '<p class="soft">There are no numbers to draw.</p>'
    )


def evaluations(run: Run) -> str:
    if not run.evaluations:
        return '<p class="soft">Nothing was measured.</p>'
    rows = [
        [
            str(line["step"]),
            *(number(line, column) for column in FIGURES),
            f"back to step {line['back']}" if isinstance(line.get("back"), int) else "",
        ]
        for line in run.evaluations
    ]
    return f'<div class="wide">{table(["step", *FIGURES, ""], rows)}</div>'
