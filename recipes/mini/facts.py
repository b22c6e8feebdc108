"""What can be seen in a picture, and which pictures are kept away from training."""

import hashlib
from dataclasses import dataclass

from recipes.mini.colours import WHITE
from recipes.mini.concepts import Concept


@dataclass(frozen=True)
class Facts:
    """One thing in one style before one colour: what the drawing and the captions both follow."""

    concept: Concept
    style: str
    background: str

    @property
    def plain(self) -> bool:
        return self.background == WHITE


@dataclass(frozen=True)
class Picture:
    """One drawing of the facts; variants differ in place, size and shade only."""

    facts: Facts
    variant: int

    @property
    def id(self) -> str:
        facts = self.facts
        background = facts.background.replace(" ", "-")
        return f"{facts.concept.hex}_{facts.style}_{background}_{self.variant}"


def held_out(facts: Facts, percent: int) -> bool:
    """Whether this concept on this background is never trained on, in any style.

    Plain pictures never are held out: they are how a thing is learned at all. The rule hangs on
    the words alone, so every edition holds out the same pairs.
    """
    key = f"v1|{facts.concept.hex}|bg|{facts.background}"
    return not facts.plain and spread(key) % 100 < percent


def spread(key: str) -> int:
    """A fixed pseudo-random number for a key, the same on every machine and Python."""
    return int(hashlib.sha1(key.encode()).hexdigest()[:8], 16)
