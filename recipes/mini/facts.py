"""What can be seen in a picture, and which combinations are kept away from training.

The drawing and the captions both follow the facts, so captions in two languages are true of the
same picture. Whatever the facts leave open (the exact place, shade or flip) is for chance.
"""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from recipes.mini.colours import WHITE
from recipes.mini.concepts import Concept

PLACES = (
    "left", "right", "top", "bottom", "center",
    "top left", "top right", "bottom left", "bottom right",
)  # fmt: skip
SIZES = ("small", "medium", "large")
RELATIONS = ("left", "right", "above", "below")
MOST = 5  # the largest count


@dataclass(frozen=True)
class Ground:
    """One colour, or fading down into a second one, or a landscape."""

    colour: str = WHITE
    fade: str | None = None
    scene: str | None = None

    @property
    def name(self) -> str:
        if self.scene:
            return f"scene {self.scene}"
        return f"{self.colour} to {self.fade}" if self.fade else self.colour


@dataclass(frozen=True)
class Facts:
    """``count`` of a concept, or one at a place or of a size, or one beside an ``other``.

    ``relation``: where the concept is, seen from the other one.
    """

    concept: Concept
    style: str
    ground: Ground = Ground()
    tint: str | None = None
    count: int = 1
    place: str | None = None
    size: str | None = None
    other: Concept | None = None
    relation: str | None = None

    @property
    def alone(self) -> bool:
        """One thing in the middle, as large as it likes."""
        return self.count == 1 and not (self.place or self.size or self.other)

    @property
    def plain(self) -> bool:
        """Alone, in its own colours, with nothing behind it but colour."""
        return self.alone and self.tint is None and not self.ground.scene


def held_out(facts: Facts, percent: int, kept: Collection[str] = ()) -> bool:
    """Whether training never sees this combination: nor anything else that holds it.

    ``kept``: cells that are shown all the same.
    """
    return any(is_held(cell, percent, kept) for cell in cells(facts))


def is_held(cell: str, percent: int, kept: Collection[str] = ()) -> bool:
    return spread(f"v1|{cell}") % 100 < percent and cell not in kept


def styled(code: str, style: str) -> str:
    """The cell of a thing in a style."""
    return f"{code}|style|{style}"


def cells(facts: Facts) -> Iterator[str]:
    """Concept x style, concept x background, concept x count, and the pair, by their fixed names.

    The rule hangs on the names alone, so every edition holds out the same ones. Plain backgrounds
    and single things are never held out: they are how a thing is learned at all.
    """
    things = [facts.concept] + ([facts.other] if facts.other else [])
    for thing in things:
        yield styled(thing.hex, facts.style)
        if facts.ground.name != WHITE:
            yield f"{thing.hex}|bg|{facts.ground.name}"
    if facts.count > 1:
        yield f"{facts.concept.hex}|count|{facts.count}"
    if facts.other:
        yield "|pair|" + "+".join(sorted(thing.hex for thing in things))


def spread(key: str) -> int:
    """A fixed pseudo-random number for a key, the same on every machine and Python."""
    return int(hashlib.sha1(key.encode()).hexdigest()[:8], 16)
