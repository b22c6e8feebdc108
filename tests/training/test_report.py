"""The page of a training: complete, closed in itself, and there whatever the log lacks."""

import base64
import math
import re
import shlex
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danqing.errors import OutputError
from danqing.training import curves, journal, report, sheet
from danqing.training.curves import Curve
from danqing.training.measure import SIGMAS
from danqing.training.settings import Settings
from tests.training.pictures import photo

VOID = {"meta", "img", "link", "br", "hr", "input"}
HOSTILE = (
    "\"'></pre></style><script>alert(1)</script><img src=http://e.org onerror=x> 狐狸 ${title}"
)
Line = dict[str, Any]


class Page(HTMLParser):
    """Tags that are opened and closed in order, their attributes, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        found = [own for name, own in self.tags if name == tag]
        return [own for own in found if all(own.get(k) == v for k, v in wanted.items())]


# ---- logs -------------------------------------------------------------------------------------


def start(step: int = 0, **changes: Any) -> Line:
    own = Settings(data=("photos",), out="mine.safetensors", **changes).plain()
    told = {"settings": own, "facts": {"pictures": 30}, "command": "danqing train lora"}
    return {"kind": "start", "step": step, **told, "predicted_bytes": 3 * 1024**3}


def step(number: int, loss: float | None = None, **changes: Any) -> Line:
    found = 1 / number if loss is None else loss
    told = {"loss": found, "prior": 0.0, "rate": 1e-4, "norm": 2.0, "seconds": 0.5}
    return {"kind": "step", "step": number, **told, **changes}


def evaluation(number: int, loss: float, best: bool = False, base: float = 0.5) -> Line:
    by_sigma = {f"{s:g}": loss + i / 100 for i, s in enumerate(SIGMAS)}
    change = loss - base
    ends = {"low": loss - 0.02, "high": loss + 0.02}
    ends |= {"change_low": change - 0.01, "change_high": change + 0.01}
    told = {"loss": loss, "change": change, **ends, "by_sigma": by_sigma, "best": best}
    return {"kind": "evaluation", "step": number, **told}


def sample(number: int, title: str = "") -> Line:
    return {"kind": "sample", "step": number, "sheet": f"{number}.png", "title": title}


def end(number: int, **told: Any) -> Line:
    return {"kind": "end", "step": number, "reason": "done", **told}


STEPS = [step(n) for n in range(1, 31)]
MEASURED = [evaluation(0, 0.5, True), evaluation(10, 0.45, True), evaluation(30, 0.47)]
FULL = [
    start(prompts=("一只红色的狐狸", "a fox & <snow>")),
    *STEPS,
    *MEASURED,
    *(sample(n) for n in (10, 20, 30)),
    {"kind": "saved", "step": 30},
    end(30, peak_bytes=2 * 1024**3, files={"mine.safetensors": "the adapter"}),
]
LOGS = {
    "full": FULL,
    "empty": [],
    "started": [start()],
    "one step": [start(), step(1)],
    "no evaluation": [start(), *STEPS, end(30)],
    "no start": [*STEPS, *MEASURED],
    "nothing finite": [start(), *(step(n, math.nan, norm=math.inf, rate=None) for n in (1, 2, 3))],
    "a gap": [start(), step(1), step(2, math.nan), step(3), step(4)],
    "beyond all": [start(), step(1), step(2, 1e308), step(3, -1e308), step(4, norm=10**400)],
    "half a character": [start(prompts=("b\udcffd",)), step(1), sample(1)],
    "evaluation not finite": [start(), step(1), evaluation(1, math.nan), evaluation(2, math.inf)],
    "only the base": [start(), evaluation(0, 0.5, True)],
    "with prior": [start(), *(step(n, prior=0.1) for n in range(1, 9))],
    "sparse": [{"kind": kind, "step": 1} for kind in ("start", "step", "evaluation", "end")],
    "hostile": [
        start(prompts=(HOSTILE,), model=HOSTILE, trigger=HOSTILE)
        | {"command": HOSTILE, "facts": {HOSTILE: [HOSTILE]}},
        step(1),
        sample(1, HOSTILE) | {"sheet": HOSTILE},
        end(1, files={HOSTILE: HOSTILE}) | {"reason": HOSTILE},
    ],
}


def written(folder: Path, lines: Sequence[Line]) -> Page:
    (folder / "log.jsonl").write_bytes(b"".join(map(journal.encoded, lines)))
    for line in lines:
        if line["kind"] == "sample" and "/" not in line["sheet"]:
            sheet.write(folder / line["sheet"], [[photo((16, 16), line["step"])]])
    return Page(report.write(folder).read_text("utf-8"))


# ---- the page ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOGS)
def test_every_log_gives_a_whole_page(tmp_path: Path, name: str) -> None:
    found = written(tmp_path, LOGS[name])
    assert len(found.of("h2")) == 5
    assert found.of("meta", charset="utf-8")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r"\$\w|\bNone\b|\bnan\b", re.sub(r"(?s)<style>.*?</style>", "", text))
    for figure in re.findall(r"(?s)<svg.*?</svg>", text):
        drawing = ET.fromstring(figure)
        for part in drawing.iter():
            for place in ("d", "points", "x1", "x2", "y1", "y2", "cx", "cy", "x", "y"):
                values = [float(n) for n in re.findall(r"[-\d.]+|nan|inf", part.get(place, ""))]
                assert all(-1 <= value <= curves.WIDTH + 1 for value in values)


@pytest.mark.parametrize("name", LOGS)
def test_the_page_asks_for_nothing_from_outside(tmp_path: Path, name: str) -> None:
    found = written(tmp_path, LOGS[name])
    assert not {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object", "base"}
    for _, attributes in found.tags:
        assert not attributes.get("href")
        assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;")
        assert not [attribute for attribute in attributes if attribute.startswith("on")]
    style = re.findall(r"(?s)<style>(.*?)</style>", (tmp_path / "report.html").read_text("utf-8"))
    assert len(style) == 1
    assert "url(" not in style[0]
    assert "@import" not in style[0]


def test_text_is_shown_as_it_is(tmp_path: Path) -> None:
    found = written(tmp_path, LOGS["hostile"])
    assert found.text.count(HOSTILE) >= 8  # not only where it cannot do harm
    assert not [own for own in found.of("img") if "onerror" in own]


def test_the_same_log_gives_the_same_page_anywhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    written(tmp_path / "a", FULL)
    first = (tmp_path / "a" / "report.html").read_bytes()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert report.write(tmp_path / "b").read_bytes() == first


def test_the_most_important_numbers_stand_on_top(tmp_path: Path) -> None:
    text = written(tmp_path, FULL).text
    assert "mine.safetensors: an adapter for mini" in text
    assert "step 30 of 1000; done" in text
    assert "Best held-out loss 0.45 step 10; 95 % band 0.43 to 0.47" in text
    assert "Change against the base −0.05 95 % band −0.06 to −0.04; below 0 is better" in text
    assert "Seconds per step 0.5 median; 15 s in all steps" in text
    assert "Peak memory 2.0 GiB predicted 3.0 GiB (measured −33 %)" in text
    assert "pictures 30" in text


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([start(), step(1)], "running, or killed; not saved yet"),
        ([start(), step(1), {"kind": "saved", "step": 1}], "running, or killed; saved at step 1"),
        ([start(), step(1), end(1), start(1), step(2)], "step 2 of 1000; running"),
        ([start(), step(1), start(1), step(2), end(2)], "done; resumed at step 1"),
    ],
)
def test_it_says_how_the_training_stands(tmp_path: Path, lines: list[Line], expected: str) -> None:
    assert expected in written(tmp_path, lines).text


def test_memory_that_was_only_predicted_is_said_to_be(tmp_path: Path) -> None:
    assert "Peak memory not measured predicted 3.0 GiB" in written(tmp_path, [start()]).text


def test_settings_that_differ_from_the_defaults_are_marked(tmp_path: Path) -> None:
    written(tmp_path, [start(rate=0.005)])
    text = (tmp_path / "report.html").read_text("utf-8")
    assert '<dt>rate</dt><dd class="changed">0.005</dd>' in text
    assert "<dt>rank</dt><dd>16</dd>" in text
    assert len(re.findall("<dt>", text)) == len(vars(Settings())) + 1  # and one fact


def test_levels_of_the_first_the_best_and_the_last(tmp_path: Path) -> None:
    text = written(tmp_path, FULL).text
    assert "sigma first (step 0) best (step 10) last (step 30)" in text
    assert "0.1 0.5 0.45 0.47 0.25 0.51 0.46 0.48" in text


def test_levels_of_one_evaluation_are_told_once(tmp_path: Path) -> None:
    assert (
        "sigma first and best and last (step 0) 0.1 0.5"
        in written(tmp_path, LOGS["only the base"]).text
    )


# ---- samples and commands ---------------------------------------------------------------------


def embedded(found: Page) -> list[bytes]:
    sources = [own["src"] or "" for own in found.of("img")]
    return [base64.b64decode(source.split(",", 1)[1]) for source in sources]


def test_sheets_are_held_whole_the_newest_first(tmp_path: Path) -> None:
    found = written(tmp_path, FULL)
    assert embedded(found) == [(tmp_path / f"{n}.png").read_bytes() for n in (30, 20, 10)]
    assert len(found.of("figure", **{"class": "newest"})) == 1
    assert "一只红色的狐狸 a fox & <snow>" in found.text


def test_all_sheets_of_the_newest_step_are_large(tmp_path: Path) -> None:
    few = sample(20, "few steps") | {"sheet": "few.png"}
    found = written(tmp_path, [start(), sample(10), sample(20, "full"), few])
    assert len(found.of("figure", **{"class": "newest"})) == 2
    assert "step 20: full step 20: few steps" in found.text


def test_of_many_sheets_evenly_chosen_ones_are_held(tmp_path: Path) -> None:
    found = written(tmp_path, [start(), *(sample(n) for n in range(1, 42))])
    held = embedded(found)
    assert len(held) == report.OLDER + 1
    assert held[0] == (tmp_path / "41.png").read_bytes()
    assert held[1] == (tmp_path / "40.png").read_bytes()
    assert held[-1] == (tmp_path / "1.png").read_bytes()
    assert "28 more sheets are in the folder" in found.text


def test_a_sheet_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    written(tmp_path, FULL)
    (tmp_path / "20.png").unlink()
    found = Page(report.write(tmp_path).read_text("utf-8"))
    assert len(embedded(found)) == 2
    assert "20.png is gone" in found.text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "danqing generate 'a red fox' --model mini --adapter mine.safetensors"),
        (
            {"prompts": ("it's 狐",), "few_step": "four.safetensors"},
            """danqing generate 'it'"'"'s 狐' --model mini --adapter mine.safetensors """
            "--adapter four.safetensors",
        ),
        ({"trigger": "sks", "kind": "full"}, "danqing generate sks --model mine.safetensors"),
    ],
)
def test_commands_to_copy(tmp_path: Path, changes: Any, expected: str) -> None:
    found = written(tmp_path, [start(**changes), end(1, files={"mine.safetensors": "x"})])
    assert f"Paint with the result: {expected} " in found.text
    assert shlex.split(expected)[:2] == ["danqing", "generate"]
    assert "also resumes it: danqing train lora " in found.text


def test_tensorboard_is_named_where_it_was_written(tmp_path: Path) -> None:
    assert "tensorboard" not in written(tmp_path, FULL).text
    (tmp_path / "tensorboard").mkdir()
    assert "tensorboard --logdir tensorboard" in written(tmp_path, FULL).text


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        report.write(tmp_path / "none")


# ---- curves -----------------------------------------------------------------------------------


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def points(svg: str) -> list[tuple[float, float]]:
    (path,) = re.findall(r'<path[^>]* d="([^"]*)"', svg)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_a_line_goes_from_edge_to_edge_and_up_is_more() -> None:
    (a, b, c) = points(curves.chart("t", [Curve("", floats(0, 5, 10), floats(1, 3, 2))]))
    assert a[0] == curves.LEFT
    assert c[0] == curves.WIDTH - curves.RIGHT
    assert b[0] == pytest.approx((a[0] + c[0]) / 2)
    assert b[1] < c[1] < a[1]
    assert c[1] == pytest.approx((a[1] + b[1]) / 2, abs=0.1)


def test_a_gap_is_not_drawn_over() -> None:
    y = floats(1, math.nan, 3, 4, math.nan, 2)
    svg = curves.chart("t", [Curve("", np.arange(6.0), y)])
    assert len(points(svg)) == 4
    assert svg.count("M") == 3


def test_a_band_and_a_level_are_inside_of_the_chart() -> None:
    band = (floats(-5, 0), floats(5, 9))
    svg = curves.chart("t", [Curve("c", floats(0, 1), floats(0, 1), band=band)], [("zero", -20.0)])
    (corners,) = re.findall(r'points="([^"]*)"', svg)
    heights = [float(corner.split(",")[1]) for corner in corners.split()]
    (level,) = (float(y) for y in re.findall(r'class="level"[^>]* y1="([\d.]+)"', svg))
    first, second = (y for _, y in points(svg))
    assert heights[1] < heights[0] < first < heights[3] < level
    assert heights[1] < second < heights[2] < level
    assert heights[1] > curves.TOP
    assert level < curves.HEIGHT - curves.BOTTOM


def test_spikes_of_a_long_curve_are_drawn() -> None:
    y = np.random.default_rng(0).normal(size=50_000)
    y[12_345], y[40_001] = 90.0, -90.0
    y[:3000] = math.nan
    places = curves.chosen(y)
    assert len(places) <= curves.POINTS
    assert {12_345, 40_001} <= set(places)
    assert (np.diff(places) > 0).all()


def test_a_few_spikes_of_a_faint_curve_do_not_flatten_it() -> None:
    y = np.random.default_rng(0).normal(size=2000)
    y[7] = 1e9
    drawn = [
        height
        for _, height in points(curves.chart("t", [Curve("", np.arange(2000.0), y, faint=True)]))
    ]
    assert min(drawn) == curves.TOP
    assert np.std(drawn) > 20


def test_smoothing_is_a_mean_of_what_is_finite() -> None:
    y = np.random.default_rng(0).normal(1.0, 0.5, 4000)
    y[100:110] = math.nan
    found = curves.smooth(y)
    assert np.isfinite(found).all()
    assert found[2000] == pytest.approx(y[1950:2051].mean())
    assert found[0] == pytest.approx(y[:51].mean())
    assert found[-1] == pytest.approx(y[-51:].mean())
    assert found.std() < 0.1 * np.nanstd(y) * 2


def test_a_short_curve_is_smoothed_to_itself() -> None:
    y = floats(1, 5, math.nan, 2)
    assert np.array_equal(curves.smooth(y), y, equal_nan=True)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1000.0, ["0", "200", "400", "600", "800", "1000"]),
        (0.44, 0.51, ["0.44", "0.46", "0.48", "0.50"]),
        (-0.031, 0.001, ["-0.03", "-0.02", "-0.01", "0.00"]),
        (0.0, 2e-4, ["0", "5e-05", "0.0001", "0.00015", "0.0002"]),
        (1.0, 3e6, ["500000", "1e+06", "1.5e+06", "2e+06", "2.5e+06", "3e+06"]),
    ],
)
def test_marks_of_an_axis_are_round_numbers(low: float, high: float, expected: list[str]) -> None:
    assert [text for _, text in curves.ticks(low, high)] == expected


def test_marks_of_steps_are_whole() -> None:
    assert [value for value, _ in curves.ticks(1, 3, apart=1.0)] == [1, 2, 3]
