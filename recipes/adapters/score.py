"""Stage `score`: what the shipped adapters do, and what they leave alone; renews RESULTS.md.

Every share is of pictures that nothing was chosen from, of one seed for each text.
"""

import itertools
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import danqing
from recipes.adapters import data, detect, glyphs, judges
from recipes.adapters.config import Place
from recipes.adapters.paint import Adapters, decoded, paint, pipeline
from recipes.adapters.train import EXAMPLES
from recipes.mini import judge as mini_judge
from recipes.mini.captions import Canonical, phrase, prompts
from recipes.mini.colours import COLOURS, WHITE
from recipes.mini.concepts import Concept, read_concepts
from recipes.mini.facts import Facts, Ground
from recipes.mini.files import fill, write_atomic
from recipes.mini.judge import Judge
from recipes.mini.looks import SIZE, small
from recipes.mini.plan import Plan
from recipes.mini.score import GUIDANCE, SEEDS, STEPS, ground

RESULTS = Path(__file__).with_name("RESULTS.md")
SUNSET, DANDAN = (str(EXAMPLES / f"{name}.safetensors") for name in ("sunset", "dandan"))
SEED = SEEDS[0]
SUBJECT_SEEDS = (1, 2, 3)
Row = tuple[str, ...]


@dataclass(frozen=True)
class Judges:
    """Who says what a picture shows."""

    place: Place

    @cached_property
    def style(self) -> Judge:
        return judges.load("style", self.place)

    @cached_property
    def subject(self) -> Judge:
        return judges.load("subject", self.place)

    @cached_property
    def mini(self) -> Judge:
        return mini_judge.load(self.place.mini)

    def named(self, judge: Judge, images: np.ndarray, concepts: Sequence[Concept]) -> float:
        """Share of pictures that the judge calls by their names."""
        classes = {concept.hex: number for number, concept in enumerate(read_concepts())}
        labels = torch.tensor([classes[concept.hex] for concept in concepts])
        return (judge.classify(small(images)).argmax(dim=1) == labels).float().mean().item()

    def grounds(self, images: np.ndarray, backgrounds: Sequence[str]) -> float:
        right = [ground(i) == b for i, b in zip(images, backgrounds, strict=True)]
        return float(np.mean(right))


def run(place: Place) -> None:
    own = Judges(place)
    sections = [head(), *sunset(place, own), *dandan(place, own), *both(place, own)]
    text = "\n".join([*sections, *judged(place, own)]) + "\n"
    write_atomic(place.runs / "score.md", text.encode())
    print(text)
    fill(RESULTS, "score", text)


def head() -> str:
    how = f"{STEPS} steps, guidance {GUIDANCE:g}, {SIZE[0]}x{SIZE[1]}"
    return (
        f"Model {pipeline().model.fingerprint}, {how}; torch {torch.__version__} on "
        f"{platform.machine()}, danqing {danqing.__version__}. "
        "Command: `python -m recipes.adapters judges score`."
    )


# ---- the style --------------------------------------------------------------------------------


def sunset(place: Place, own: Judges) -> list[str]:
    rows = []
    for name, concepts in (
        ("not taught", glyphs.untaught_concepts(place)),
        ("taught", glyphs.taught_concepts(place)),
    ):
        rows += style_rows(place, own, concepts, name)
    columns = ("things", "prompts", "adapter", "sunset", "thing")
    return ["", "## sunset", "", *table(columns, rows)]


def style_rows(place: Place, own: Judges, concepts: list[Concept], name: str) -> list[Row]:
    """Each thing in English and Chinese."""
    config, rows = place.config.sunset, []
    ways = {
        "name the style": (config.trigger_en, config.trigger_zh),
        "do not": ("", ""),
    }
    for words, style in ways.items():
        texts = style_texts(concepts, *style)
        for used, adapters in without_and_with(SUNSET):
            images = paint(place, texts, [SEED] * len(texts), adapters)
            shares = style_shares(own, images, concepts)
            rows.append((f"{name} ({len(texts)})", words, used, *shares))
    return rows


def style_texts(concepts: Sequence[Concept], en: str, zh: str) -> list[str]:
    """Of each thing in this style, in English and Chinese."""
    return [text for c in concepts for text in phrase(Canonical(), data.with_style(c, en, zh))]


def style_shares(own: Judges, images: np.ndarray, concepts: Sequence[Concept]) -> Row:
    """Of pictures of ``style_texts``, once or several times over: in the style, and named right."""
    doubled = [concept for concept in concepts for _ in range(2)]
    times = len(images) // len(doubled)
    named = own.named(own.mini, images, doubled * times)
    return percent(detect.share(own.style, images)), percent(named)


def without_and_with(adapter: str) -> tuple[tuple[str, Adapters], ...]:
    return (("no", {}), ("yes", {adapter: 1.0}))


# ---- the subject ------------------------------------------------------------------------------


def dandan(place: Place, own: Judges) -> list[str]:
    seen = place.config.dandan.backgrounds
    colours = [c for c in COLOURS if c != "red"]
    rows = []
    for name, grounds in (
        ("backgrounds of the six pictures", [c for c in colours if c in seen]),
        ("other backgrounds", [c for c in colours if c not in seen]),
        ("red, its own colour", ["red"]),
    ):
        rows += subject_rows(place, own, grounds, name)
    return [
        "",
        "## dandan",
        "",
        *table(("prompts with its name", "adapter", "Dandan", "ground"), rows),
        "",
        *table(
            ("prompts of other things", "adapter", "thing", "ground", "Dandan"),
            other_rows(place, own),
        ),
    ]


def subject_rows(place: Place, own: Judges, grounds: list[str], name: str) -> list[Row]:
    every = list(itertools.product(grounds, range(4), SUBJECT_SEEDS))
    texts = [data.dandan_captions(g, "dandan")[form] for g, form, _ in every]
    rows = []
    for used, adapters in without_and_with(DANDAN):
        images = paint(place, texts, [seed for *_, seed in every], adapters)
        shares = (
            detect.share(own.subject, images),
            own.grounds(images, [g for g, *_ in every]),
        )
        rows.append((f"{name} ({len(texts)})", used, *map(percent, shares)))
    return rows


def other_rows(place: Place, own: Judges) -> list[Row]:
    """All things, before white and before a colour that they can be told from."""
    facts = plain_facts(place)
    texts = [prompts(f)[n // 2 % 2] for n, f in enumerate(facts)]
    rows = []
    for used, adapters in without_and_with(DANDAN):
        images = paint(place, texts, [SEED] * len(texts), adapters)
        shares = (
            own.named(own.mini, images, [f.concept for f in facts]),
            own.grounds(images, [f.ground.colour for f in facts]),
            detect.share(own.subject, images),
        )
        rows.append((f"all {len(place.concepts)} ({len(texts)})", used, *map(percent, shares)))
    return rows


def plain_facts(place: Place) -> list[Facts]:
    plan, facts = Plan(glyphs.bank(place), 0), []
    for number, concept in enumerate(place.concepts):
        styles = plan.styles[concept.hex]
        own = Facts(concept, styles[number % len(styles)])
        fit = [c for c in COLOURS if c != WHITE and plan.is_seen(own, Ground(c))]
        facts += [own, replace(own, ground=Ground(fit[number % len(fit)]))]
    return facts


# ---- both -------------------------------------------------------------------------------------


def both(place: Place, own: Judges) -> list[str]:
    """The character in the style: two adapters that were trained apart, added."""
    config = place.config.sunset
    texts = [f"dandan, {config.trigger_en}", f"dandan，{config.trigger_zh}"]
    every = list(itertools.product(texts, range(10)))
    adapters = {SUNSET: 1.0, DANDAN: 1.0}
    images = paint(place, [text for text, _ in every], [seed for _, seed in every], adapters)
    style, subject = (percent(detect.share(d, images)) for d in (own.style, own.subject))
    return [
        "",
        f"Both adapters at once, `{texts[0]}` and in Chinese ({len(every)}): sunset {style}, "
        f"Dandan {subject}.",
    ]


# ---- how good the judges are ------------------------------------------------------------------


def judged(place: Place, own: Judges) -> list[str]:
    lines = ["", "## The judges on real drawings", ""]
    columns = (
        "drawings of things not learnt from",
        "pictures",
        "as drawn",
        "blurred",
        "after the VAE",
    )
    for name in ("style", "subject"):
        rows = [
            (what, str(f["pictures"]), *(percent(f[w]) for w in ("drawn", "blurred", "decoded")))
            for what, f in judges.facts_of(name, place).items()
        ]
        lines += [f"Detector of the {name}, right answers:", "", *table(columns, rows), ""]
    return lines + ceiling(place, own)


def ceiling(place: Place, own: Judges) -> list[str]:
    """What mini's judge names of real drawings, before plain colours and before the sky."""
    own_glyphs, rows = glyphs.own_glyphs(place), []
    drawings = list(own_glyphs.values())
    kinds = {"plain": judges.renders(place, drawings, "ceiling"), "sunset": judges.skies(drawings)}
    codes = {concept.hex: concept for concept in place.concepts}
    doubled = [codes[code] for _, code in own_glyphs]
    for name, images in kinds.items():
        shares = (own.named(own.mini, way, doubled) for way in (images, decoded(images)))
        rows.append((name, str(len(images)), *map(percent, shares)))
    columns = (f"drawings of all {len(place.concepts)}", "pictures", "as drawn", "after the VAE")
    return ["Things that mini's judge names right:", "", *table(columns, rows)]


# ---- the page ---------------------------------------------------------------------------------


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
