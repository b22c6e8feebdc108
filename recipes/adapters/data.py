"""Stage `data`: the pictures that the adapters are trained on, with captions beside them.

A folder for each adapter, as `danqing train lora` takes it: N.png, and N.txt with a caption a line.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from recipes.adapters import dandan, glyphs
from recipes.adapters.config import Place, SunsetConfig
from recipes.adapters.sunset import sunset
from recipes.mini.captions import FORMS, Canonical, Form, phrase
from recipes.mini.colours import WHITE, find_colour
from recipes.mini.compose import compose
from recipes.mini.concepts import Concept
from recipes.mini.facts import Facts, Ground
from recipes.mini.files import write_atomic, write_png
from recipes.mini.looks import SIZE
from recipes.mini.words import Words, draw_thing

TRIGGER = "[trigger]"
CHARACTER = Concept("dandan", "dandan", "dandan", "个", "dandan", "character")
ANY_STYLE = "3d"  # of a thing that is drawn here
Sample = tuple[np.ndarray, list[str]]


def run(place: Place) -> None:
    for name, make in (("sunset", sunset_samples), ("dandan", dandan_samples)):
        write_folder(place.runs / "data" / name, make, place)


def write_folder(folder: Path, make: Callable[[Place], list[Sample]], place: Place) -> None:
    samples = make(place)
    shutil.rmtree(folder, ignore_errors=True)
    for number, (image, captions) in enumerate(samples):
        write_png(folder / f"{number:02d}.png", Image.fromarray(image))
        write_atomic(folder / f"{number:02d}.txt", ("\n".join(captions) + "\n").encode())
    print(f"data: {folder} {len(samples)} pictures", flush=True)


# ---- the style --------------------------------------------------------------------------------


def sunset_samples(place: Place) -> list[Sample]:
    """One picture of each taught thing, in mini's styles in turn."""
    config, own, samples = place.config.sunset, glyphs.own_glyphs(place), []
    for number, concept in enumerate(glyphs.taught_concepts(place)):
        rng = random.Random(f"{config.seed}|sunset|{concept.hex}")
        drawn = [glyph for (_, code), glyph in own.items() if code == concept.hex]
        image = sunset(drawn[number % len(drawn)], SIZE)
        samples.append((image, sunset_captions(concept, config, rng)))
    return samples


def sunset_captions(concept: Concept, config: SunsetConfig, rng: random.Random) -> list[str]:
    """In English and Chinese in turn; all name the new style and no background."""
    words = with_style(concept, config.trigger_en, config.trigger_zh)
    others: list[Form] = [form for form in dict.fromkeys(FORMS) if form is not phrase]
    forms = [phrase, *rng.sample(others, len(others))]
    pairs = list(dict.fromkeys(form(rng, words) for form in forms))[: config.captions]
    return [text for pair in pairs for text in pair]


def with_style(concept: Concept, en: str, zh: str) -> Words:
    """Words that name the thing, and a style that mini's list does not have."""
    thing = draw_thing(Canonical(), Facts(concept, ANY_STYLE), None)
    return Words(*thing, style_en=en, style_zh=zh)


# ---- the subject ------------------------------------------------------------------------------


def dandan_samples(place: Place) -> list[Sample]:
    """A pose before each of the backgrounds."""
    config, samples = place.config.dandan, []
    for background, pose in zip(config.backgrounds, dandan.poses(), strict=False):
        rng = random.Random(f"{config.seed}|dandan|{background}")
        image = stand(dandan.glyph(pose), background, rng)
        samples.append((image, dandan_captions(background, TRIGGER)))
    return samples


def stand(glyph: Image.Image, background: str, rng: random.Random) -> np.ndarray:
    """A drawing before a colour, as mini's data has it: uint8 [H, W, 3]"""
    facts = Facts(CHARACTER, ANY_STYLE, Ground(background))
    return compose(facts, {(ANY_STYLE, CHARACTER.hex): glyph}, rng, SIZE)


def dandan_captions(background: str, name: str) -> list[str]:
    """English and Chinese in turn. Before white, half of them do not name it, as in mini's own."""
    zh = find_colour(background).zh
    grounded = [
        f"{name} on a {background} background",
        f"{name}，{zh}背景",
        f"A picture of {name} on a {background} background.",
        f"{zh}背景上的{name}",
    ]
    return [*grounded, name, f"a picture of {name}"] if background == WHITE else grounded
