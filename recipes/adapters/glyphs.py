"""Glyphs: mini's own art, and which of its things the style is taught with."""

from functools import lru_cache

from PIL import Image

from recipes.adapters.config import Place
from recipes.mini import art
from recipes.mini.art import Bank
from recipes.mini.concepts import Concept
from recipes.mini.facts import spread

Glyphs = dict[art.Key, Image.Image]


def taught_concepts(place: Place) -> list[Concept]:
    """The things that the style is taught with, by a fixed rule; no other is.

    The same share of each kind (animals, fruit, vehicles ...), within a kind by chance.
    """
    config = place.config.sunset
    kinds: dict[str, list[Concept]] = {}
    for concept in sorted(place.concepts, key=lambda c: spread(f"{config.seed}|{c.hex}")):
        kinds.setdefault(concept.kind, []).append(concept)
    turns = {c.hex: (i + 1) / len(own) for own in kinds.values() for i, c in enumerate(own)}
    return sorted(place.concepts, key=lambda c: turns[c.hex])[: config.pictures]


def untaught_concepts(place: Place) -> list[Concept]:
    taught = taught_concepts(place)
    return [concept for concept in place.concepts if concept not in taught]


def own_glyphs(place: Place) -> Glyphs:
    """The drawings of the things here that mini was trained on."""
    own = {concept.hex for concept in place.concepts}
    return {key: glyph for key, glyph in bank(place).items() if key[1] in own}


def other_glyphs(place: Place) -> Glyphs:
    """Those of all other things."""
    own = {concept.hex for concept in place.concepts}
    return {key: glyph for key, glyph in bank(place).items() if key[1] not in own}


@lru_cache(1)
def bank(place: Place) -> Bank:
    return art.load_bank(place.mini_config, place.mini)
