"""Curves as SVG inside HTML: lines with bands over one pair of axes, coloured by the page's CSS.

Takes numbers, of which some may be nan, and gives text. Does not know what they mean.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Levels = Sequence[tuple[str, float]]  # dashed lines across the chart, with their names

WIDTH, HEIGHT = 480, 240
LEFT, RIGHT, TOP, BOTTOM = 60, 18, 10, 24  # margins, for the numbers on the axes
POINTS = 400  # of a curve that are drawn
MARKS = 6  # of an axis, about
FEW = 40  # a curve of at most so many points is drawn with dots
ROUGH = (0.005, 0.995)  # of a faint curve, the share that the chart must hold
WINDOWS = 40  # a smoothed curve has so many independent points


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: for the key; "" needs none.
        x, y: as many of each; nan in ``y`` is a gap.
        band: a low and a high edge around it.
        hue: a class of the page: "one", "two" or "three".
        faint: drawn thin, and its few outermost values may lie outside of the chart.
        told: what to show for each point when a mouse is on it.
    """

    name: str
    x: Array
    y: Array
    band: tuple[Array, Array] | None = None
    hue: str = "one"
    faint: bool = False
    told: Sequence[str] = ()


def smooth(y: Array) -> Array:
    """The running mean of what is finite, over a fortieth of the curve around each point."""
    half = len(y) // (2 * WINDOWS)
    known = np.isfinite(y)
    sums = np.concatenate(([0.0], np.cumsum(np.where(known, y, 0.0))))
    counts = np.concatenate(([0], np.cumsum(known)))
    places = np.arange(len(y))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(y))
    count = counts[high] - counts[low]
    return np.where(count > 0, (sums[high] - sums[low]) / np.maximum(count, 1), np.nan)


def chart(title: str, curves: Sequence[Curve], levels: Levels = (), x_name: str = "step") -> str:
    """A figure with its key; "" if no curve has a finite value."""
    shown = [curve for curve in curves if np.isfinite(curve.y).any()]
    if not shown:
        return ""
    frame = frame_of(shown, levels)
    parts = [*axes(frame, x_name)]
    for _, value in levels:
        y = frame.y(value)
        parts.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
    for curve in shown:
        parts += drawn(curve, frame)
    label = f'role="img" aria-label="{escape(title)}"'
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" {label}>{"".join(parts)}</svg>'
    keys = "".join(key(curve) for curve in shown if curve.name)
    keys += "".join(f'<span class="key none dashed">{escape(name)}</span>' for name, _ in levels)
    head = f"<figcaption><b>{escape(title)}</b> {keys}</figcaption>"
    return f'<figure class="chart">{head}{svg}</figure>'


def key(curve: Curve) -> str:
    faint = " faint" if curve.faint else ""
    return f'<span class="key {curve.hue}{faint}">{escape(curve.name)}</span>'


# ---- the axes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """The numbers at the edges of the chart."""

    left: float
    right: float
    low: float
    high: float
    apart: float  # at least so far apart are the marks along x

    def x(self, value: float) -> float:
        share = (value - self.left) / (self.right - self.left)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """What lies outside is drawn at the edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def frame_of(curves: Sequence[Curve], levels: Levels) -> Frame:
    x = np.concatenate([curve.x for curve in curves])
    held = [np.array([value for _, value in levels])]
    for curve in curves:
        finite = curve.y[np.isfinite(curve.y)]
        held.append(np.quantile(finite, ROUGH) if curve.faint else finite)
        held += curve.band or ()
    y = np.concatenate(held)
    whole = bool((x % 1 == 0).all())
    return Frame(*widened(x, 0.0), *widened(y[np.isfinite(y)], 0.04), apart=float(whole))


def widened(values: Array, share: float) -> tuple[float, float]:
    """Ends of an axis: what the values span and a share more, never nothing."""
    low, high = float(values.min()), float(values.max())
    room = share * (high - low) if high > low else 0.1 * abs(high) or 1.0
    return low - room, high + room


def ticks(low: float, high: float, apart: float = 0.0) -> list[tuple[float, str]]:
    """Round numbers of the axis, with their text."""
    rough = max((high - low) / MARKS, apart)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough * (1 - 1e-9))
    digits = max(0, -math.floor(math.log10(step)))
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    found = [round(place * step, digits) for place in places]
    wide = max(map(abs, found), default=0.0)
    brief = digits > 4 or wide >= 1e5
    return [(v, f"{v:.6g}" if brief else f"{v:.{digits}f}") for v in found]


def axes(frame: Frame, x_name: str) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value, text in ticks(frame.low, frame.high):
        y = frame.y(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{minus(text)}</text>'
    for value, text in ticks(frame.left, frame.right, frame.apart):
        x = frame.x(value)
        yield f'<line class="grid" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{minus(text)}</text>'
    yield f'<text x="{LEFT - 18}" y="{bottom + 17}" text-anchor="end">{escape(x_name)}</text>'


def minus(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text


# ---- the lines --------------------------------------------------------------------------------


def drawn(curve: Curve, frame: Frame) -> Iterator[str]:
    places = chosen(curve.y)
    x, y = curve.x[places], curve.y[places]
    if curve.band is not None:
        yield area(frame, x, curve.band[0][places], curve.band[1][places], curve.hue)
    faint = " faint" if curve.faint else ""
    yield f'<path class="curve {curve.hue}{faint}" d="{path(frame, x, y)}"/>'
    if np.isfinite(curve.y).sum() <= FEW and not curve.faint:
        for i in places[np.isfinite(y)]:
            told = f"<title>{escape(curve.told[i])}</title>" if len(curve.told) else ""
            place = f'cx="{frame.x(curve.x[i])}" cy="{frame.y(curve.y[i])}" r="3"'
            yield f'<circle class="dot {curve.hue}" {place}>{told}</circle>'


def chosen(y: Array) -> NDArray[np.int64]:
    """Places of the points that are drawn: of many, the least and the most of each stretch."""
    if len(y) <= POINTS:
        return np.arange(len(y))
    places: list[np.int64] = []
    for stretch in np.array_split(np.arange(len(y)), POINTS // 2):
        own = y[stretch]
        known = stretch[np.isfinite(own)]
        if len(known):
            places += [known[np.argmin(y[known])], known[np.argmax(y[known])]]
        else:
            places.append(stretch[0])
    return np.unique(np.array(places))


def path(frame: Frame, x: Array, y: Array) -> str:
    """Moves and lines; a point between gaps is a stroke of no length, which is drawn as a dot."""
    parts, on = [], False
    for a, b in zip(x, y, strict=True):
        known = math.isfinite(b)
        if known:
            place = f"{frame.x(a)} {frame.y(b)}"
            parts.append(f"L{place}" if on else f"M{place}h0")
        on = known
    return "".join(parts)


def area(frame: Frame, x: Array, low: Array, high: Array, hue: str) -> str:
    known = np.isfinite(low) & np.isfinite(high)
    there = [f"{frame.x(a)},{frame.y(b)}" for a, b in zip(x[known], high[known], strict=True)]
    back = [f"{frame.x(a)},{frame.y(b)}" for a, b in zip(x[known], low[known], strict=True)]
    return f'<polygon class="band {hue}" points="{" ".join([*there, *back[::-1]])}"/>'
