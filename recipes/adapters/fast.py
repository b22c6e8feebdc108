"""Stage `fast`: the sunset in four steps; renews its part of RESULTS.md, and its sheet.

`mini`'s own few-step adapter knows nothing of the sunset. Either it is put beside it as it is, or
both teacher and student wear the sunset while a few-step adapter is distilled for the two together:
the same as `danqing distill --config recipes/adapters/sunset-fast.toml`, with the prompts that are
written here.
"""

import platform
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import danqing
from danqing.training.distill.run import distill
from danqing.training.distill.settings import DistillSettings, read
from recipes.adapters import data, glyphs
from recipes.adapters.config import Place
from recipes.adapters.paint import Adapters, paint, pipeline
from recipes.adapters.score import RESULTS, SUNSET, Judges, style_shares, style_texts, table
from recipes.adapters.sheets import PICTURES, WIDE, write
from recipes.mini.captions import FORMS
from recipes.mini.concepts import Concept, read_concepts
from recipes.mini.distil import DEFAULT, show
from recipes.mini.files import fill, write_atomic
from recipes.mini.looks import SIZE
from recipes.mini.score import SEEDS

SETTINGS = Path(__file__).with_name("sunset-fast.toml")
PROMPTS = 1000
FORMS_SEED = "sunset in few steps"


@dataclass(frozen=True)
class Way:
    """One way of sampling; steps and guidance are the adapters' own if not given."""

    name: str
    evaluations: int
    adapters: Adapters
    steps: int | None = None
    guidance: float | None = None


def run(place: Place) -> None:
    settings = read(SETTINGS, {})
    minutes = train(place, settings)
    few, many, guidance = settings.steps, settings.teacher_steps, settings.guidance
    slow = f"sunset, {many} steps, guidance {guidance:g}"
    ways = (
        Way(slow, 2 * many, {SUNSET: 1.0}, many, guidance),
        Way(f"sunset and {DEFAULT}, {few} steps", few, {SUNSET: 1.0, str(mini_own()): 1.0}),
        Way(f"sunset and its own, {few} steps", few, {SUNSET: 1.0, settings.out: 1.0}),
    )
    judges, things = Judges(place), glyphs.untaught_concepts(place)
    painted = [pictures(place, things, way) for way in ways]
    rows = [
        (
            way.name,
            str(way.evaluations),
            *style_shares(judges, images, things),
            f"{apart(images, painted[0]):.1f}",
        )
        for way, images in zip(ways, painted, strict=True)
    ]
    text = "\n".join([head(len(things), settings, minutes), "", *table(COLUMNS, rows)]) + "\n"
    print(text)
    fill(RESULTS, "fast", text)
    write(PICTURES / "sunset-fast.png", [images[shown(len(things))] for images in painted])


def mini_own() -> Path:
    return pipeline().model.folder / "adapters" / f"{DEFAULT}.safetensors"


def head(things: int, settings: DistillSettings, minutes: float) -> str:
    threads = torch.get_num_threads()
    steps = f"{settings.imitation} steps of imitation and {settings.matching} of matching"
    return (
        f"{things} things that the sunset was not taught with, in English and Chinese, "
        f"{len(SEEDS)} seeds, {SIZE[0]}x{SIZE[1]}. Its own few-step adapter began as "
        f"{settings.start} and took {steps}, {minutes:.0f} minutes on "
        f"{threads} thread{'s' if threads > 1 else ''} of {platform.machine()}. Model "
        f"{pipeline().model.fingerprint}, torch {torch.__version__}, "
        f"danqing {danqing.__version__}. Command: `python -m recipes.adapters judges fast`."
    )


# ---- the training -----------------------------------------------------------------------------


def train(place: Place, settings: DistillSettings) -> float:
    """Minutes that it took; what was there is made anew."""
    write_prompts(place, Path(settings.prompts_file))
    folder = Path(settings.out).parent
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    for event in distill(settings, torch.device("cpu")):
        show("sunset-fast", event)
    return (time.monotonic() - started) / 60


def write_prompts(place: Place, path: Path) -> None:
    """Prompts that ask for the style, of things that it is not measured with."""
    config, measured = place.config.sunset, {c.hex for c in glyphs.untaught_concepts(place)}
    things = [c for c in read_concepts() if c.hex not in measured]
    rng = random.Random(FORMS_SEED)
    texts: dict[str, None] = {}
    while len(texts) < PROMPTS:
        words = data.with_style(rng.choice(things), config.trigger_en, config.trigger_zh)
        texts[rng.choice(rng.choice(FORMS)(rng, words))] = None
    write_atomic(path, ("\n".join(texts) + "\n").encode())


# ---- the figures ------------------------------------------------------------------------------

COLUMNS = ("way", "network evaluations", "sunset", "thing", "levels from the first way's pictures")


def pictures(place: Place, things: list[Concept], way: Way) -> np.ndarray:
    """uint8 [n, H, W, 3], of every seed"""
    config = place.config.sunset
    texts = style_texts(things, config.trigger_en, config.trigger_zh)
    numbers = [seed for seed in SEEDS for _ in texts]
    return paint(place, texts * len(SEEDS), numbers, way.adapters, way.steps, way.guidance)


def shown(things: int) -> slice:
    """Some of the first seed's, in English and Chinese by turns."""
    step = 2 * things // WIDE | 1
    return slice(0, 2 * things, step)


def apart(images: np.ndarray, others: np.ndarray) -> float:
    """Root mean square, of 255 levels."""
    return float(np.sqrt(((images.astype(np.float32) - others) ** 2).mean()))
