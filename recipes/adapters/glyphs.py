"""Glyphs: mini's own art, and which of its things the style is taught with.

A glyph is an RGBA square of art.CELL pixels with the drawing in its middle.
"""

from recipes.adapters.config import Place
from recipes.mini.art import Bank, load_bank, make_glyph, open_art
from recipes.mini.concepts import Concept, read_concepts
from recipes.mini.facts import spread
from recipes.mini.styles import find_style


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


def mini_bank(place: Place) -> Bank:
    """The drawings that mini was trained on."""
    return load_bank(place.mini_config, place.concepts, place.mini)


def other_bank(place: Place) -> Bank:
    """Drawings in mini's styles of things that are none of mini's."""
    known = {concept.hex for concept in place.concepts}
    others = [concept for concept in read_concepts() if concept.hex not in known]
    bank: Bank = {}
    for name in place.mini_config.data.styles:
        style = find_style(name)
        draw = open_art(style, place.mini)
        for concept in others:
            if draw(concept.hex) is not None:
                bank[name, concept.hex] = make_glyph(draw, style, name, concept)
    return bank
