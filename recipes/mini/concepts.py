"""The things that can be drawn, with their names in English and Chinese (concepts.txt)."""

import re
from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).with_name("concepts.txt")


@dataclass(frozen=True)
class Concept:
    """``hex``: emoji code points; ``classifier``: the Chinese measure word; ``kind``: its group."""

    hex: str
    en: str
    zh: str
    classifier: str
    plural: str
    kind: str


def read_concepts(path: Path = LIST) -> list[Concept]:
    concepts, kind = [], ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if line.startswith("@"):
            kind = line[1:]
        elif line and not line.startswith("#"):
            parts = line.split("|")
            if len(parts) not in (4, 5):
                raise ValueError(f"{path.name}:{number}: write hex|en|zh|classifier[|plural]")
            code, en, zh, classifier, plural = (*parts, pluralise(parts[1]))[:5]
            concepts.append(Concept(code, en, zh, classifier, plural, kind))
    return concepts


def choose_concepts(names: tuple[str, ...], num_concepts: int) -> list[Concept]:
    """The named concepts, in the order of the names: a concept's place is the judge's class."""
    if len(set(names)) != num_concepts:
        raise ValueError(
            f"{len(set(names))} different concepts are named, num_concepts is {num_concepts}; "
            "make them agree in [data]"
        )
    by_name = {concept.en: concept for concept in read_concepts()}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ValueError(f"concept {unknown[0]!r} is not in {LIST.name}; add it there")
    return [by_name[name] for name in names]


def pluralise(noun: str) -> str:
    if re.search(r"(s|x|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"
