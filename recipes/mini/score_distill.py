"""Stage `score_distill`: how near a few-step student comes to its slow, guided teacher.

Held-out prompts in both languages, the same noise for every way of sampling. Each figure has its
95 % interval: by the bootstrap, or for distances, which grow when a picture counts twice, by the
jackknife over blocks. Both draw facts, each with its prompts in both languages. What lies between
the teacher's own pictures of two seeds is the noise floor of every distance.
"""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import danqing
from danqing.adapters import formats
from danqing.sampling.schedule import schedule
from danqing.types import BLANK
from recipes.mini import judge as judges
from recipes.mini import reader as readers
from recipes.mini.captions import prompts
from recipes.mini.config import Config
from recipes.mini.distil import NAMES
from recipes.mini.files import fill, write_atomic, write_png
from recipes.mini.judge import Judge
from recipes.mini.looks import SIZE, small
from recipes.mini.reader import Reader
from recipes.mini.score import (
    RESULTS,
    SEEDS,
    Answers,
    Asked,
    answers,
    frechet,
    held_facts,
    wanted,
)
from recipes.mini.stream import Stream
from recipes.mini.vae import to_bytes

FACTS = 52  # of each of the five groups of the score: some 256 in all
LANGUAGES = 2
RESAMPLES = 1000
BLOCKS = 20  # of the jackknife
WIDTH = 1.96  # standard errors to each side of 95 %
TEACHER_STEPS, GUIDANCE = 50, 4.0
AT_ONCE = 32
PAGE = Path(__file__).parents[2] / "docs" / "distillation.md"
SHEET = PAGE.parent / "pictures" / "distillation.png"
SHOWN = 7  # pictures of a way: the sheet is to stay below 1 MiB
GAP = 4
Band = tuple[float, float, float]  # a figure and its 95 % interval


@dataclass(frozen=True)
class Way:
    """One way of sampling; ``adapter`` a file."""

    name: str
    sigmas: tuple[float, ...]
    guidance: float
    adapter: Path | None = None

    @property
    def evaluations(self) -> int:
        return (len(self.sigmas) - 1) * (2 if self.guidance > 1 else 1)


@dataclass(frozen=True)
class Painted:
    """By seed: latents [n, ...], pictures uint8 [n, H, W, 3]. Seconds for one picture by part:
    reading the prompt (and the negative one, where it is needed), denoising, decoding."""

    latents: list[Tensor]
    images: list[np.ndarray]
    seconds: dict[str, float]


def run(config: Config, runs: Path, minutes: float | None) -> None:
    pipe = danqing.load(str(runs / "model" if (runs / "model").is_dir() else "mini"))
    stream = Stream(config.data, runs, "held")
    asked = doubled(held_facts(config.data, runs, count=FACTS))
    texts = [prompts(f)[n % LANGUAGES] for n, f in enumerate(asked.facts)]
    judge, reader = judges.load(runs), readers.load(runs)
    real = np.stack([stream.picture(n, SIZE).image for n in asked.numbers])
    ways = ways_of(pipe, runs)
    paint(pipe, texts[:AT_ONCE], ways[-1])  # the first pack is slow
    painted = {way.name: paint(pipe, texts, way) for way in ways}
    figures = Figures(judge, reader, asked, real, painted[ways[0].name])
    rows = {way.name: figures.of(painted[way.name]) for way in ways}
    text = page(ways, rows, painted, figures, len(texts))
    write_atomic(runs / "score" / "distill.md", text.encode())
    print(text)
    fill(RESULTS, "distill", text)
    places = shown(asked)
    write_sheet([painted[way.name].images[0][places] for way in ways], SHEET)
    fill(PAGE, "sheet", legend(ways, [texts[place] for place in places]))


def doubled(asked: Asked) -> Asked:
    """Every fact twice: once for each language."""
    return Asked(
        [f for f in asked.facts for _ in range(LANGUAGES)],
        [n for n in asked.numbers for _ in range(LANGUAGES)],
        [g for g in asked.groups for _ in range(LANGUAGES)],
    )


def ways_of(pipe: "danqing.Pipeline", runs: Path) -> list[Way]:
    """The teacher first."""
    patches = (SIZE[0] // pipe.unit) * (SIZE[1] // pipe.unit)

    def plain(steps: int) -> tuple[float, ...]:
        return tuple(schedule(steps, patches, pipe.model.schedule))

    found = [
        Way(f"teacher, {TEACHER_STEPS} guided", plain(TEACHER_STEPS), GUIDANCE),
        Way("teacher at 4, guided", plain(4), GUIDANCE),
        Way("teacher at 4, no guidance", plain(4), 1.0),
        Way("teacher at 2, guided", plain(2), GUIDANCE),  # asks as often as a student of 4
    ]
    for name in NAMES:
        path = runs / "distill" / f"{name}.safetensors"
        own = pipe.model.folder / "adapters" / path.name
        file = path if path.exists() else own
        if file.exists():
            found += students(name, file)
    return found


def students(name: str, file: Path) -> list[Way]:
    """The adapter in its own steps, then in all others that it serves."""
    sampling = formats.read(file).sampling
    assert sampling is not None
    assert sampling.sigmas is not None
    others = [Way(f"{name} in {len(own) - 1}", own, 1.0, file) for own in sampling.also]
    return [Way(name, sampling.sigmas, 1.0, file), *others]


# ---- pictures ---------------------------------------------------------------------------------


def paint(pipe: "danqing.Pipeline", texts: Sequence[str], way: Way) -> Painted:
    """All prompts with each seed, every prompt with noise of its own."""
    adapters = {str(way.adapter): 1.0} if way.adapter else {}
    started = time.perf_counter()
    encoded = pipe.encode(texts)
    negative = pipe.encode([BLANK]) if way.guidance > 1 else None
    reading = (time.perf_counter() - started) * len(SEEDS)  # a prompt is read for every picture
    states, images, denoising, decoding = [], [], 0.0, 0.0
    for seed in SEEDS:
        own, started = [], time.perf_counter()
        noises = [pipe.noise(len(texts) * seed + n, SIZE) for n in range(len(texts))]
        for start in range(0, len(texts), AT_ONCE):
            pack = encoded[start : start + AT_ONCE]
            own += pipe.denoise(
                pack,
                noises[start : start + AT_ONCE],
                sigmas=way.sigmas,
                guidance=way.guidance,
                negative=negative and negative * len(pack),
                adapters=adapters,
            )
        between = time.perf_counter()
        pixels = torch.stack(pipe.decode(own))
        denoising += between - started
        decoding += time.perf_counter() - between
        states.append(torch.stack(own))
        images.append(to_bytes(pixels))
    count = len(SEEDS) * len(texts)
    parts = {"reading": reading, "denoising": denoising, "decoding": decoding}
    return Painted(states, images, {part: spent / count for part, spent in parts.items()})


# ---- figures ----------------------------------------------------------------------------------


class Figures:
    """What is counted and measured of a way's pictures, against the teacher's and real ones."""

    def __init__(
        self, judge: Judge, reader: Reader, asked: Asked, real: np.ndarray, teacher: Painted
    ) -> None:
        self.judge, self.reader, self.asked, self.teacher = judge, reader, asked, teacher
        self.right = wanted(asked)
        self.real = self.features(real)
        self.teachers = [self.features(images) for images in teacher.images]
        facts = len(real) // LANGUAGES
        rng = np.random.default_rng(0)
        self.draws = [both(rng.integers(facts, size=facts)) for _ in range(RESAMPLES)]
        blocks = np.array_split(rng.permutation(facts), BLOCKS)
        self.rest = [both(np.setdiff1d(np.arange(facts), block)) for block in blocks]

    def features(self, images: np.ndarray) -> Tensor:
        return self.judge.describe(small(images)).double()

    def of(self, painted: Painted) -> dict[str, Band]:
        own = [self.features(images) for images in painted.images]
        found = {name: self.accuracy(painted, name) for name in ROWS}
        found["to real renders"] = self.jackknifed(lambda at: frechet(own[0][at], self.real[at]))
        found["to the teacher"] = self.jackknifed(
            lambda at: frechet(own[0][at], self.teachers[1][at])
        )
        apart, theirs = apart_of(own), apart_of(self.teachers)
        found["diversity"] = self.resampled(partial(between, apart, theirs))
        cosine = cosines(painted.latents, self.teacher.latents)
        found["same-seed cosine"] = self.resampled(lambda at: float(cosine[at].mean()))
        for name, look in LOOKS.items():
            mine, their = (looks(p.images, look) for p in (painted, self.teacher))
            found[name] = self.resampled(partial(between, mine, their))
        return found

    def accuracy(self, painted: Painted, row: str) -> Band:
        """Of both seeds; ``row`` is one of ROWS."""
        rights = []
        for images in painted.images:
            found = answers(self.judge, self.reader, images, self.asked.facts)
            rights.append(correct(found, self.right, ROWS[row]))
        right = np.mean(rights, axis=0)
        return self.resampled(lambda at: share(right[at]))

    def resampled(self, figure: Callable[[np.ndarray], float]) -> Band:
        """The figure of all prompts, and where most of it lies when facts are drawn anew."""
        found = np.array([figure(at) for at in self.draws])
        found = found[~np.isnan(found)]  # of draws that asked for it at all
        low, high = np.quantile(found, (0.025, 0.975)) if len(found) else (np.nan, np.nan)
        return figure(np.arange(len(self.real))), float(low), float(high)

    def jackknifed(self, figure: Callable[[np.ndarray], float]) -> Band:
        """The figure, and its standard error from leaving out a block of the facts in turn."""
        whole = figure(np.arange(len(self.real)))
        error = jackknife_error([figure(at) for at in self.rest])
        return whole, whole - WIDTH * error, whole + WIDTH * error


def both(facts: np.ndarray) -> np.ndarray:
    """The places of these facts' prompts, in every language."""
    return (LANGUAGES * facts[:, None] + np.arange(LANGUAGES)).ravel()


def jackknife_error(figures: Sequence[float]) -> float:
    """Standard error of a figure, from its values without each of so many equal blocks (Efron and
    Tibshirani 1993, eq. 11.5)."""
    spread = np.asarray(figures) - np.mean(figures)
    return float(np.sqrt((len(figures) - 1) * np.mean(spread**2)))


# The columns of accuracies, by the rows of the score that they are taken from.
ROWS = {
    "concept": ("common", "all"),
    "style": ("style",),
    "background": ("background",),
    "count": ("count",),
    "position": ("place",),
    "pair": ("pair",),
}


def correct(found: Answers, right: Answers, rows: Sequence[str]) -> np.ndarray:
    """1 or 0 of each picture, nan where it was not asked for it."""
    marks = np.full(len(next(iter(right.values()))), np.nan)
    for row in rows:
        for place, (own, told) in enumerate(zip(found[row], right[row], strict=True)):
            if told is not None:
                marks[place] = float(own == told)
    return marks


def share(marks: np.ndarray) -> float:
    """The mean of those that were asked for; nan where none was."""
    asked = marks[~np.isnan(marks)]
    return float(asked.mean()) if len(asked) else np.nan


def apart_of(features: Sequence[Tensor]) -> np.ndarray:
    """How far each prompt's pictures of two seeds are from each other."""
    return np.asarray((features[0] - features[1]).norm(dim=1))


def cosines(own: Sequence[Tensor], theirs: Sequence[Tensor]) -> np.ndarray:
    """Of each prompt's latents, the mean of the seeds."""
    pairs = zip(own, theirs, strict=True)
    found = [torch.cosine_similarity(a.flatten(1), b.flatten(1)) for a, b in pairs]
    return np.asarray(torch.stack(found).mean(dim=0))


def ratio(own: np.ndarray, theirs: np.ndarray) -> float:
    return float(own.mean() / theirs.mean())


def between(own: np.ndarray, theirs: np.ndarray, at: np.ndarray) -> float:
    return ratio(own[at], theirs[at])


def looks(images: Sequence[np.ndarray], look: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.mean([look(own.astype(np.float32)) for own in images], axis=0)


def contrast(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=3).std(axis=(1, 2))


def chroma(images: np.ndarray) -> np.ndarray:
    return (images.max(axis=3) - images.min(axis=3)).mean(axis=(1, 2))


def detail(images: np.ndarray) -> np.ndarray:
    """Root mean square of the Laplacian."""
    gray = images.mean(axis=3)
    inside = gray[:, 1:-1, 1:-1]
    around = gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1] + gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
    return np.sqrt(((4 * inside - around) ** 2).mean(axis=(1, 2)))


LOOKS = {"contrast": contrast, "chroma": chroma, "fine detail": detail}


# ---- the page ---------------------------------------------------------------------------------


def page(
    ways: Sequence[Way],
    rows: dict[str, dict[str, Band]],
    painted: dict[str, Painted],
    figures: Figures,
    count: int,
) -> str:
    names = [way.name for way in ways]
    floor = frechet(figures.teachers[0], figures.teachers[1])
    lines = [
        f"{count} prompts of held-out combinations, half of them Chinese, {len(SEEDS)} seeds, "
        f"{SIZE[0]}x{SIZE[1]}; on {torch.get_num_threads()} threads of {platform.machine()}, torch "
        f"{torch.__version__}, danqing {danqing.__version__}. In brackets 95 % of the values when "
        "their facts are drawn anew, of distances 1.96 standard errors. Command: "
        "`make score-distill`.",
        "",
        f"| | {' | '.join(names)} |",
        f"|{'---|' * (len(names) + 1)}",
    ]
    for figure in rows[names[0]]:
        shares = figure in ROWS
        cells = [told(rows[name][figure], shares) for name in names]
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    evaluations = [str(way.evaluations) for way in ways]
    lines.append(f"| network evaluations | {' | '.join(evaluations)} |")
    for part in painted[names[0]].seconds:
        seconds = [f"{painted[name].seconds[part]:.4f}" for name in names]
        lines.append(f"| seconds per picture, {part} | {' | '.join(seconds)} |")
    whole = [f"{sum(painted[name].seconds.values()):.3f}" for name in names]
    lines.append(f"| seconds per picture, prompt to pixels | {' | '.join(whole)} |")
    lines += ["", f"Distance of the teacher's pictures of two seeds, the noise floor: {floor:.3g}."]
    if missing := [name for name in NAMES if name not in names]:
        lines += ["", f"Not measured, since it was not trained: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def told(band: Band, shares: bool) -> str:
    if np.isnan(band[0]):
        return "not asked"
    if shares:
        value, low, high = (100 * x for x in band)
        return f"{value:.1f} % ({low:.1f} to {high:.1f})"
    value, low, high = band
    return f"{value:.3g} ({low:.3g} to {high:.3g})"


# ---- the sheet --------------------------------------------------------------------------------


def shown(asked: Asked) -> list[int]:
    """Of each group the first fact in English, and the second in Chinese, as far as there is
    room."""
    groups: dict[str, list[int]] = {}
    for place, group in enumerate(asked.groups):
        groups.setdefault(group.split()[0], []).append(place)
    return [own[n] for own in groups.values() for n in (0, LANGUAGES + 1)][:SHOWN]


def write_sheet(rows: Sequence[np.ndarray], path: Path) -> None:
    """Pictures uint8 [n, H, W, 3], a row for each way of sampling."""
    framed = [
        np.pad(row, ((0, 0), (GAP, 0), (GAP, 0), (0, 0)), constant_values=255) for row in rows
    ]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in framed])
    write_png(path, Image.fromarray(sheet))


def legend(ways: Sequence[Way], texts: Sequence[str]) -> str:
    lines = [
        f"![The same prompts and noise, sampled in {len(ways)} ways](pictures/{SHEET.name})",
        "",
        f"Rows: {'; '.join(way.name for way in ways)}. Columns: {' · '.join(texts)}.",
    ]
    return "\n".join(lines) + "\n"
