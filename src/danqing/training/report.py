"""A training on one page: ``report.html``, drawn from the log and the sheets of a run's folder.

The page asks for nothing from outside and runs no script; the same log gives the same page.
Whatever the log lacks is left out or said to be missing. Does not know how a training runs.
"""

import base64
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from danqing import atomic
from danqing.training import journal
from danqing.training.curves import Array, Curve, Levels, chart, smooth
from danqing.training.journal import Line
from danqing.training.settings import Settings
from danqing.weights.plan import gigabytes

REPORT = "report.html"
OLDER = 12  # older sheets that the page holds
LONG = 40  # characters of a value that fit beside others
HUES = ("one", "two", "three")
LARGEST = 1e30  # beyond it a number is as good as infinite


Draw = Callable[[Sequence[Line], Path], str]


def write(folder: Path, draw: Draw | None = None) -> Path:
    """Draw the report of the run in the folder, as far as its log goes; the report's path.

    Raises:
        OutputError: the folder cannot be written, or is full.
    """
    path = folder / REPORT
    content = (draw or page)(journal.read(folder), folder).encode("utf-8", "backslashreplace")
    atomic.write(path, lambda file: file.write(content))
    return path


def page(lines: Sequence[Line], folder: Path) -> str:
    """The page of these lines of a log; ``folder`` is where their sheets are."""
    run = gather(lines)
    own = {
        "title": escape(title(run)),
        "tiles": "".join(tiles(run)),
        "curves": "".join(curves(run)),
        "details_name": "Loss by noise level",
        "details": levels(run),
        "settings": settings(run, Settings().plain()),
    }
    return laid(run, folder, own)


def laid(run: "Run", folder: Path, own: Mapping[str, str]) -> str:
    """The page, with what every run has beside what is a run's own."""
    template = Template(Path(__file__).with_suffix(".html").read_text("utf-8"))
    return template.substitute(
        status=escape(status(run)),
        facts=listed(run.start.get("facts") or {}),
        samples="".join(samples(run, folder)),
        files="".join(files(run, folder)),
        **own,
    )


# ---- what the log says ------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A log's lines by kind. ``end`` is empty where the training went on after it."""

    start: Line
    end: Line
    steps: list[Line]
    evaluations: list[Line]
    samples: list[Line]
    resumed: list[int]
    saved: int

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.start.get("settings") or {}

    @property
    def step(self) -> int:
        return max([line["step"] for line in (*self.steps, *self.evaluations)], default=0)

    @property
    def best(self) -> Line:
        """The evaluation that was last told to be the best."""
        return ([line for line in self.evaluations if line.get("best")] or [{}])[-1]


# What a field must be to be shown; a log that was damaged or edited may hold anything.
NUMBER = (int, float)
KINDS: dict[str, Any] = {
    "settings": dict, "facts": dict, "command": str, "reason": str, "files": dict,
    "predicted_bytes": NUMBER, "peak_bytes": NUMBER,
    "by_sigma": dict, "sheet": str, "title": str,
}  # fmt: skip


def sound(line: Line) -> Line:
    """The line without fields of a wrong kind."""
    kept = {name: v for name, v in line.items() if isinstance(v, KINDS.get(name, object))}
    if "by_sigma" in kept:
        kept["by_sigma"] = {s: loss for s, loss in kept["by_sigma"].items() if is_number(s)}
    return kept


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def gather(found: Sequence[Line]) -> Run:
    lines = [sound(line) for line in found]

    def of(kind: str) -> list[Line]:
        return [line for line in lines if line["kind"] == kind]

    edges = [line for line in lines if line["kind"] in ("start", "end")]
    starts = of("start")
    return Run(
        start=starts[-1] if starts else {},
        end=edges[-1] if edges and edges[-1]["kind"] == "end" else {},
        steps=of("step"),
        evaluations=of("evaluation"),
        samples=of("sample"),
        resumed=[line["step"] for line in starts if line["step"]],
        saved=max([line["step"] for line in of("saved")], default=0),
    )


def numbers(lines: Iterable[Mapping[str, Any]], name: str) -> Array:
    """A column of the lines; nan where there is no finite number."""
    found = [line.get(name) for line in lines]
    return np.array(
        [float(x) if isinstance(x, int | float) and abs(x) < LARGEST else math.nan for x in found]
    )


def number(line: Mapping[str, Any], name: str, form: str = ".4g") -> str:
    value = float(numbers([line], name)[0])
    return "–" if math.isnan(value) else format(value, form).replace("-", "−")


def plain(value: Any) -> str:
    """A setting or fact as a person writes it."""
    if value is None or value in ("", []):
        return "–"
    if isinstance(value, str):
        return value if value.strip() else f'"{value}"'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {plain(own)}" for name, own in value.items())
    return ", ".join(map(plain, value)) if isinstance(value, list) else str(value)


# ---- the sections -----------------------------------------------------------------------------


def title(run: Run) -> str:
    own = run.settings
    name = Path(str(own.get("out") or "")).name or "A training"
    kind = {"lora": "an adapter for", "full": "all weights of"}.get(own.get("kind") or "", "of")
    return f"{name}: {kind} {own['model']}" if own.get("model") else name


def status(run: Run) -> str:
    total = run.start.get("total") or run.settings.get("steps")
    told = [f"step {run.step}" + (f" of {total}" if total else "")]
    kept = f"saved at step {run.saved}" if run.saved else "not saved yet"
    told.append(str(run.end.get("reason") or f"running, or killed; {kept}"))
    if run.resumed:
        told.append(f"resumed at step {', '.join(map(str, run.resumed))}")
    return "; ".join(told)


def tiles(run: Run) -> Iterable[str]:
    """The numbers that matter most."""
    best = run.best
    if best:
        band = f"95 % band {number(best, 'low')} to {number(best, 'high')}"
        yield tile("Best held-out loss", number(best, "loss"), f"step {best['step']}; {band}")
        ends = [number(best, f"change_{end}", "+.3g") for end in ("low", "high")]
        below = f"95 % band {' to '.join(ends)}; below 0 is better"
        yield tile("Change against the base", number(best, "change", "+.3g"), below)
    elif run.steps:
        yield tile("Training loss", number(run.steps[-1], "loss"), "at the last step")
    yield from speed(run)
    yield from memory(run)


def speed(run: Run) -> Iterable[str]:
    seconds = numbers(run.steps, "seconds")
    if np.isfinite(seconds).any():
        median = {"median": float(np.nanmedian(seconds))}
        spent = f"median; {duration(float(np.nansum(seconds)))} in all steps"
        yield tile("Seconds per step", number(median, "median", ".3g"), spent)


def memory(run: Run) -> Iterable[str]:
    peak = run.end.get("peak_bytes")
    planned = run.end.get("predicted_bytes") or run.start.get("predicted_bytes")
    if not peak and not planned:
        return
    below = f"predicted {gigabytes(planned)}" if planned else "not predicted"
    if peak and planned:
        below += f" (measured {100 * (peak / planned - 1):+.0f} %)".replace("-", "−")
    yield tile("Peak memory", gigabytes(peak) if peak else "not measured", below)


def tile(name: str, value: str, below: str) -> str:
    parts = f"<span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(below)}</small>"
    return f'<div class="tile">{parts}</div>'


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def samples(run: Run, folder: Path) -> Iterable[str]:
    """The newest sheets large, and older ones below; of many, evenly chosen ones."""
    if not run.samples:
        yield '<p class="soft">No samples were painted.</p>'
        return
    last = run.samples[-1]["step"]
    newest = [line for line in run.samples if line["step"] == last]
    older = [line for line in reversed(run.samples) if line["step"] != last]
    for line in newest:
        shown = f"<figcaption>{sheet_name(line)}</figcaption>{sheet(line, folder)}"
        yield f'<figure class="newest">{shown}</figure>'
    prompts = run.settings.get("prompts") or []
    if prompts:
        yield f"<ol>{''.join(f'<li>{escape(str(prompt))}</li>' for prompt in prompts)}</ol>"
    if len(older) > OLDER:
        left_out = len(older) - OLDER
        yield f'<p class="soft">{left_out} more sheets are in the folder of the run.</p>'
        older = [older[i] for i in np.linspace(0, len(older) - 1, OLDER).round().astype(int)]
    opened = [f"{sheet(line, folder)}{sheet_name(line)}" for line in older]
    boxes = "".join(f"<details><summary>{own}</summary></details>" for own in opened)
    if boxes:
        yield f'<div class="older">{boxes}</div>'


def sheet(line: Line, folder: Path) -> str:
    try:
        content = (folder / str(line.get("sheet"))).read_bytes()
    except OSError:
        return f"<span>{escape(str(line.get('sheet')))} is gone. </span>"
    data = base64.b64encode(content).decode()
    return f'<img alt="samples of {sheet_name(line)}" src="data:image/png;base64,{data}">'


def sheet_name(line: Line) -> str:
    name = line.get("title")
    return f"step {line['step']}" + (f": {escape(str(name))}" if name else "")


def curves(run: Run) -> Iterable[str]:
    steps, found = numbers(run.steps, "step"), run.evaluations
    has_prior = np.nan_to_num(numbers(run.steps, "prior")).any()
    prior = rough("each step", run.steps, "prior") if has_prior else []
    drawn = [
        chart("Training loss", rough("each step", run.steps, "loss")),
        held_out(found, "loss", "Held-out loss", base_level(found)),
        held_out(found, "change", "Change against the base", [("as the base", 0.0)]),
        chart("Loss of leaving the base", prior),
        chart("Learning rate", [Curve("", steps, numbers(run.steps, "rate"))]),
        chart("Gradient norm", rough("before clipping", run.steps, "norm")),
    ]
    shown = "".join(drawn)
    yield (
        f'<div class="charts">{shown}</div>'
        if shown
        else '<p class="soft">There are no numbers to draw.</p>'
    )


def rough(name: str, lines: Sequence[Line], column: str) -> list[Curve]:
    x, y = numbers(lines, "step"), numbers(lines, column)
    return [Curve(name, x, y, faint=True), Curve("smoothed", x, smooth(y))]


def held_out(lines: Sequence[Line], column: str, name: str, level: Levels) -> str:
    low, high = ("low", "high") if column == "loss" else (f"{column}_low", f"{column}_high")
    band = (numbers(lines, low), numbers(lines, high))
    told = [
        f"step {line['step']}: {number(line, column)} ({number(line, low)} to {number(line, high)})"
        for line in lines
    ]
    x, y = numbers(lines, "step"), numbers(lines, column)
    return chart(name, [Curve("with its 95 % band", x, y, band=band, told=told)], level)


def base_level(lines: Sequence[Line]) -> Levels:
    base = numbers(lines, "loss") - numbers(lines, "change")
    finite = base[np.isfinite(base)]
    return [("the base", float(finite[0]))] if finite.size else []


def levels(run: Run) -> str:
    """A chart and a table: the first, the best and the last evaluation."""
    if not run.evaluations:
        return '<p class="soft">No held-out pictures were measured.</p>'
    columns: dict[int, tuple[str, Line]] = {}
    for name, line in (
        ("first", run.evaluations[0]),
        ("best", run.best),
        ("last", run.evaluations[-1]),
    ):
        if line:
            before = columns.get(line["step"], ("", line))[0]
            columns[line["step"]] = (f"{before} and {name}" if before else name, line)
    names = [f"{name} (step {step})" for step, (name, _) in columns.items()]
    by_sigma = [line.get("by_sigma") or {} for _, line in columns.values()]
    sigmas = list(by_sigma[0])
    x = np.array([float(sigma) for sigma in sigmas])
    lines = [
        Curve(name, x, np.array([numbers([own], s)[0] for s in sigmas]), hue=hue)
        for name, own, hue in zip(names, by_sigma, HUES, strict=False)
    ]
    rows = [[s, *(number(own, s) for own in by_sigma)] for s in sigmas]
    drawn = chart("Loss by noise level", lines, x_name="sigma")
    return (
        f'<div class="charts">{drawn}<div class="wide">{table(["sigma", *names], rows)}</div></div>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(value)}</td>' for value in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def files(run: Run, folder: Path) -> Iterable[str]:
    own, told = run.settings, run.end.get("files") or {}
    if told:
        yield f'<dl class="facts">{listed(told)}</dl>'
    if own.get("out"):
        yield f"<p>Paint with the result:</p><pre>{escape(generate_command(own))}</pre>"
    if run.start.get("command"):
        again = escape(str(run.start["command"]))
        yield f"<p>It was started with this line, which also resumes it:</p><pre>{again}</pre>"
    beside = f"All numbers are in <code>{journal.LOG}</code> beside this page"
    if (folder / journal.TENSORBOARD).is_dir():
        beside += f"; or see <code>tensorboard --logdir {journal.TENSORBOARD}</code> there"
    yield f'<p class="soft">{beside}.</p>'


def generate_command(own: Mapping[str, Any]) -> str:
    """A line for a shell that paints with what was trained."""
    asked = [*(own.get("prompts") or []), own.get("trigger") or own.get("caption") or "a red fox"]
    result, model = str(own["out"]), str(own.get("model") or "mini")
    words = ["danqing", "generate", str(asked[0])]
    if own.get("kind") == "full":
        words += ["--model", result]
    else:
        words += ["--model", model, "--adapter", result]
    if own.get("few_step"):
        words += ["--adapter", str(own["few_step"])]
    return shlex.join(words)


def settings(run: Run, usual: Mapping[str, Any]) -> str:
    """All of them, and which are not the usual ones."""
    changed = {name for name, value in run.settings.items() if value != usual.get(name)}
    return listed(run.settings, changed)


def listed(values: Mapping[str, Any], bold: Iterable[str] = ()) -> str:
    """Names with their values; a long value takes the whole width."""
    marks = dict.fromkeys(bold, ' class="changed"')
    parts = []
    for name, own in values.items():
        told = plain(own)
        wide = ' class="wide"' if len(told) > LONG else ""
        entry = f"<dt>{escape(str(name))}</dt><dd{marks.get(name, '')}>{escape(told)}</dd>"
        parts.append(f"<div{wide}>{entry}</div>")
    return "".join(parts)
