"""Stage `judges`: the detectors of style and subject. Things are named by mini's own judge.

Things are told apart here into two halves that never meet: the detectors learn from things outside
these and from those that the style adapter is taught; they are measured, as the adapter is, on
the other things.
"""

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from recipes.adapters import dandan, detect, glyphs
from recipes.adapters.config import Place
from recipes.adapters.data import stand
from recipes.adapters.detect import NO, YES, Group, as_glyphs, halved
from recipes.adapters.paint import decoded, paint
from recipes.adapters.sunset import SKY, TINT, before, sunset
from recipes.mini.captions import prompts
from recipes.mini.colours import COLOURS, WHITE, find_colour
from recipes.mini.facts import Facts, Ground, spread
from recipes.mini.files import read_json, write_atomic, write_json
from recipes.mini.judge import Judge
from recipes.mini.looks import SIZE
from recipes.mini.plan import is_lost, solid_colours

Glyphs = list[Image.Image]
TAUGHT_POSES, LEARNT_POSES = slice(0, 6), slice(6, 15)  # of the adapter, of the detector


@dataclass(frozen=True)
class Things:
    """Drawings in both of mini's styles, of things to learn from and of things to measure on."""

    learnt: Glyphs
    held: glyphs.Glyphs


def run(place: Place) -> None:
    things = find_things(place)
    painted = painted_things(place)
    style(place, things, painted)
    subject(place, things, painted)


def find_things(place: Place) -> Things:
    codes = {concept.hex for concept in glyphs.taught_concepts(place)}
    own, others = glyphs.own_glyphs(place), glyphs.other_glyphs(place)
    learnt = [*others.values(), *(glyph for (_, code), glyph in own.items() if code in codes)]
    return Things(learnt, {key: glyph for key, glyph in own.items() if key[1] not in codes})


def painted_things(place: Place) -> Tensor:
    """The taught things by mini itself, in both of its styles before its colours."""
    colours = list(COLOURS)
    facts = [
        Facts(concept, name, Ground(colours[(number + shift) % len(colours)]))
        for number, concept in enumerate(glyphs.taught_concepts(place))
        for shift, name in enumerate(place.mini_config.data.styles)
    ]
    texts = [prompts(f)[number % 2] for number, f in enumerate(facts)]
    return halved(paint(place, texts, range(1000, 1000 + len(texts))))


# ---- the style --------------------------------------------------------------------------------


def style(place: Place, things: Things, painted: Tensor) -> None:
    """Told from plain backgrounds and from others that fade, the sky's own colours among them."""
    config = place.config.detector
    plain, names = renders(place, things.learnt, "style"), place.mini_config.data.styles
    true = skies(things.learnt)
    false = fades(place, things.learnt, "style")
    some = slice(None, None, len(plain) // config.decoded + 1)
    groups = [
        Group(YES, 0.25, halved(true)),
        Group(YES, 0.25, halved(decoded(true[some]))),
        Group(NO, 0.1, halved(plain)),
        Group(NO, 0.1, halved(decoded(plain[some]))),
        Group(NO, 0.1, halved(false)),
        Group(NO, 0.1, halved(decoded(false[some]))),
        Group(NO, 0.1, painted),
    ]
    detector = detect.train(groups, config)
    pool = list(things.held.values())
    held = {
        name: renders(place, [g for (s, _), g in things.held.items() if s == name], name)
        for name in names
    }
    held |= {"other fades": fades(place, pool, "held"), "sunset": skies(pool)}
    publish("style", detector, measure(detector, held, "sunset"), place)


def skies(pool: Glyphs) -> np.ndarray:
    return np.stack([sunset(glyph, SIZE) for glyph in pool])


def fades(place: Place, pool: Glyphs, name: str) -> np.ndarray:
    """Other backgrounds that fade: two of mini's colours, or the sky's in another order."""
    images = []
    turned = [colours for colours in itertools.permutations(SKY) if colours[1:] != SKY[1:]]
    for number, glyph in enumerate(pool):
        rng = chance(place, f"fade {name}", number)
        colours = tuple(find_colour(c).rgb for c in rng.sample(list(COLOURS), 2))
        if rng.random() < 0.3:
            colours = rng.choice(turned)
        images.append(before(glyph, colours, rng.choice((0.0, TINT)), SIZE))
    return np.stack(images)


def chance(place: Place, name: str, number: int) -> random.Random:
    return random.Random(f"{place.config.detector.seed}|{name}|{number}")


# ---- the subject ------------------------------------------------------------------------------


def subject(place: Place, things: Things, painted: Tensor) -> None:
    config, poses = place.config.detector, dandan.poses()
    known = [dandan.glyph(pose) for pose in poses[LEARNT_POSES]]
    false = [dandan.glyph(other) for pose in poses[LEARNT_POSES] for other in dandan.decoys(pose)]
    groups = [
        Group(YES, 0.3, as_glyphs(known)),
        Group(YES, 0.2, through_vae(place, known, "dandan")),
        Group(NO, 0.12, as_glyphs(false)),
        Group(NO, 0.13, as_glyphs(things.learnt)),
        Group(NO, 0.1, through_vae(place, false, "decoys")),
        Group(NO, 0.07, through_vae(place, things.learnt, "others")),
        Group(NO, 0.05, painted),
    ]
    detector = detect.train(groups, config)
    apart = poses[LEARNT_POSES.stop :]
    held = {
        "Dandan": [dandan.glyph(pose) for pose in apart],
        "decoys": [dandan.glyph(other) for pose in apart for other in dandan.decoys(pose)],
        "other things": list(things.held.values()),
    }
    images = {name: renders(place, pool, f"held {name}") for name, pool in held.items()}
    publish("subject", detector, measure(detector, images, "Dandan"), place)


# ---- both -------------------------------------------------------------------------------------


def through_vae(place: Place, pool: Glyphs, name: str) -> Tensor:
    count = place.config.detector.decoded
    chosen = [pool[spread(f"{name}|{number}") % len(pool)] for number in range(count)]
    return halved(decoded(renders(place, chosen, name)))


def renders(place: Place, pool: Glyphs, name: str) -> np.ndarray:
    """Each before white or a colour that it can be told from."""
    images = []
    for number, glyph in enumerate(pool):
        rng, own = chance(place, name, number), solid_colours(glyph)
        fit = [c for c in COLOURS if c != WHITE and not is_lost(own, find_colour(c).rgb)]
        images.append(stand(glyph, rng.choice([WHITE, *fit]), rng))
    return np.stack(images)


def measure(detector: Judge, held: dict[str, np.ndarray], true: str) -> dict[str, dict[str, float]]:
    """Right answers on held-out renders: as drawn, blurred, and after the VAE."""
    found: dict[str, dict[str, float]] = {}
    for name, images in held.items():
        ways = {"drawn": images, "blurred": detect.blurred(images), "decoded": decoded(images)}
        yes = {way: detect.share(detector, own) for way, own in ways.items()}
        found[name] = {way: round(s if name == true else 1 - s, 4) for way, s in yes.items()}
        found[name]["pictures"] = len(images)
    return found


# ---- files ------------------------------------------------------------------------------------


def publish(name: str, judge: Judge, facts: object, place: Place) -> None:
    metadata = {"width": str(judge.width), "classes": str(judge.num_classes)}
    state = {key: tensor.contiguous() for key, tensor in judge.state_dict().items()}
    write_atomic(path_of(name, place), save(state, metadata))
    write_json(path_of(name, place).with_suffix(".json"), facts)
    print(f"judges: {name} {facts}", flush=True)


def load(name: str, place: Place) -> Judge:
    path = path_of(name, place)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run the stage `judges` first")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        judge = Judge(int(metadata["width"]), int(metadata["classes"]))
        judge.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    return judge.eval()


def facts_of(name: str, place: Place) -> dict[str, dict[str, float]]:
    return dict(read_json(path_of(name, place).with_suffix(".json")))


def path_of(name: str, place: Place) -> Path:
    return place.runs / "judges" / f"{name}.safetensors"
