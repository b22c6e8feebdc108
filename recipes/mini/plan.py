"""Which facts are drawn how often: a stream of chance, and only what can be seen.

A thing is never put on a colour that hides it, and only dyed where a dye makes sense.
"""

import random
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
from PIL import Image

from recipes.mini.art import Bank
from recipes.mini.colours import COLOURS, RGB, TINTS, WHITE, distance
from recipes.mini.concepts import Concept, common_concepts, read_concepts
from recipes.mini.facts import (
    MOST,
    PLACES,
    RELATIONS,
    SIZES,
    Facts,
    Ground,
    held_out,
    is_held,
    styled,
)
from recipes.mini.scenes import SCENES
from recipes.mini.styles import STYLES

Kinds = Mapping[str, float]
KINDS: Kinds = {"alone": 8, "count": 3, "place": 2, "size": 1.5, "pair": 4}
ALONE: Kinds = {"alone": 1}
# What the base is shown: places and counts are learnt long before all things are (LOG.md).
PAINTED: Kinds = {"alone": 10, "count": 0.5, "place": 0.5, "size": 0.5, "pair": 8}
COMMON_WEIGHT = 3  # how much more often a common thing is drawn than one of the others
COLOURED, FADED, SCENIC = 0.4, 0.1, 0.15  # shares of grounds; the rest is white
DYED = 0.15
DYEABLE = ("animal", "plant", "food", "vehicle", "object", "place")
OWN_COLOUR = re.compile(
    r"\b(red|blue|green|black|orange|yellow|purple|pink|brown|gold|golden|silver|bronze|white|polar|"
    r"rainbow|milk|banknote|sunset|sunrise|night|dusk|desert|map|globe|wine|mirror|window)\b"
)
HIDDEN = 110  # colours nearer than this (sum over channels) are hard to tell apart
THUMB = 24


class Plan:
    """Draws facts for one split: ``held`` is what training never sees."""

    def __init__(self, bank: Bank, percent: int, held: bool = False, things: int = 0) -> None:
        self.bank, self.percent, self.held = bank, percent, held
        listed = spread_common(things) if things else read_concepts()
        self.concepts = [c for c in listed if any((s, c.hex) in bank for s in STYLES)]
        self.weights = [COMMON_WEIGHT if c.common else 1 for c in self.concepts]
        self.thumbs: dict[tuple[str, str], np.ndarray] = {}

    @cached_property
    def styles(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for style, code in self.bank:
            found[code].append(style)
        return found

    @cached_property
    def kept(self) -> frozenset[str]:
        """A thing that is held out in all of its styles would never be learnt: one is shown."""
        every = ([styled(code, style) for style in own] for code, own in self.styles.items())
        return frozenset(own[0] for own in every if all(is_held(c, self.percent) for c in own))

    @cached_property
    def shown_once(self) -> frozenset[str]:
        """Things that training shows in one style alone."""
        held = {
            code: [is_held(styled(code, style), self.percent, self.kept) for style in own]
            for code, own in self.styles.items()
        }
        return frozenset(code for code, own in held.items() if own.count(False) == 1)

    @cached_property
    def totals(self) -> list[float]:
        return list(np.cumsum(self.weights))

    def draw(self, rng: random.Random, kinds: Kinds = KINDS) -> Facts:
        """``kinds``: of arrangements, and how often each."""
        while True:
            facts = self.propose(rng, kinds)
            if facts and held_out(facts, self.percent, self.kept) == self.held:
                return facts

    def in_one_style(self, facts: Facts) -> bool:
        """Whether something in the picture never comes in another style."""
        things = (facts.concept, facts.other)
        return any(thing.hex in self.shown_once for thing in things if thing)

    def propose(self, rng: random.Random, kinds: Kinds) -> Facts | None:
        """One draw; None where chance asked for what cannot be seen."""
        concept = self.pick(rng)
        style = rng.choice(self.styles[concept.hex])
        facts = self.arrange(rng, Facts(concept, style), kinds)
        if facts and rng.random() < DYED:
            facts = self.dye(rng, facts)
        return facts and self.put_before(rng, facts)

    def pick(self, rng: random.Random) -> Concept:
        return rng.choices(self.concepts, cum_weights=self.totals)[0]

    def arrange(self, rng: random.Random, facts: Facts, kinds: Kinds) -> Facts | None:
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        if kind == "count":
            return replace(facts, count=rng.randint(2, MOST))
        if kind == "place":
            return replace(facts, place=rng.choice(PLACES))
        if kind == "size":
            return replace(facts, size=rng.choice(SIZES))
        if kind == "pair":
            other = self.pick(rng)
            if other == facts.concept or (facts.style, other.hex) not in self.bank:
                return None
            return replace(facts, other=other, relation=rng.choice(RELATIONS))
        return facts

    def dye(self, rng: random.Random, facts: Facts) -> Facts:
        concept = facts.concept
        fits = concept.kind in DYEABLE and not OWN_COLOUR.search(concept.en)
        # Black is what a drawing of one colour has anyway.
        tints = [t for t in TINTS if t != "black"] if STYLES[facts.style].mono else TINTS
        return replace(facts, tint=rng.choice(tints)) if fits else facts

    def put_before(self, rng: random.Random, facts: Facts) -> Facts | None:
        """A ground before which everything is seen, white where no caption needs to name it."""
        for _ in range(8):
            ground = draw_ground(rng)
            if ground.scene and (facts.count > 1 or facts.place or facts.size):
                continue
            if (
                facts.relation in ("above", "below")
                and ground.scene
                and SCENES[ground.scene].stands
            ):
                continue
            if self.is_seen(facts, ground):
                return replace(facts, ground=ground)
        return None

    def is_seen(self, facts: Facts, ground: Ground) -> bool:
        if ground.name == WHITE and facts.tint is None:
            return True  # a thing has to be shown on white, and nearly all have an outline
        behind = colours_of(ground)
        mono = STYLES[facts.style].mono
        tint = facts.tint or ("black" if mono else None)
        if tint and any(distance(COLOURS[tint].rgb, rgb) < 2 * HIDDEN for rgb in behind):
            return False
        things = [facts.other] if facts.tint else [facts.concept, facts.other]
        return not any(self.hides(facts.style, t, rgb) for t in things if t for rgb in behind)

    def hides(self, style: str, concept: Concept, rgb: RGB) -> bool:
        """Whether nearly half of the glyph would be lost before this colour."""
        key = style, concept.hex
        if key not in self.thumbs:
            self.thumbs[key] = solid_colours(self.bank[key])
        return is_lost(self.thumbs[key], rgb)


def spread_common(things: int) -> list[Concept]:
    """So many of the common things, of every group."""
    common = common_concepts()
    return [common[i * len(common) // things] for i in range(things)]


def is_lost(colours: np.ndarray, rgb: RGB) -> bool:
    """Whether nearly half of these colours [n, 3] can hardly be told from another one."""
    return bool((np.abs(colours - rgb).sum(-1) < HIDDEN).mean() > 0.4)


def solid_colours(glyph: Image.Image) -> np.ndarray:
    """The colours of what is opaque, [n, 3]; one that is nowhere opaque counts as black."""
    pixels = np.asarray(glyph.resize((THUMB, THUMB), Image.Resampling.BILINEAR)).astype(np.int16)
    solid = pixels[..., 3] > 128
    return pixels[solid][:, :3] if solid.any() else np.zeros((1, 3), np.int16)


def colours_of(ground: Ground) -> tuple[RGB, ...]:
    if ground.scene:
        return SCENES[ground.scene].behind
    return tuple(COLOURS[name].rgb for name in (ground.colour, ground.fade) if name)


def draw_ground(rng: random.Random) -> Ground:
    chance, names = rng.random(), list(COLOURS)
    if chance < COLOURED:
        return Ground(rng.choice([name for name in names if name != WHITE]))
    if chance < COLOURED + FADED:
        top, bottom = rng.sample(names, 2)
        near = distance(COLOURS[top].rgb, COLOURS[bottom].rgb) < 2 * HIDDEN
        return Ground() if near else Ground(top, fade=bottom)
    if chance < COLOURED + FADED + SCENIC:
        return Ground(scene=rng.choice(list(SCENES)))
    return Ground()
