"""The things that can be drawn, with their names in English and Chinese.

``concepts.txt`` holds the common ones, named by hand; ``more_concepts.txt`` every other emoji;
``synonyms.txt`` what else people call either. A concept's place in the list is fixed: judges count
their classes by it.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
COMMON, MORE, SYNONYMS = (FOLDER / f"{n}.txt" for n in ("concepts", "more_concepts", "synonyms"))


@dataclass(frozen=True)
class Concept:
    """``hex``: emoji code points; ``classifier``: the Chinese measure word; ``kind``: its group."""

    hex: str
    en: str
    zh: str
    classifier: str
    plural: str
    kind: str
    common: bool = True
    also_en: tuple[str, ...] = ()
    also_zh: tuple[str, ...] = ()


@cache
def read_concepts() -> tuple[Concept, ...]:
    """All of them, the common ones first."""
    also = read_synonyms(SYNONYMS)
    return tuple(
        Concept(*names, kind, path == COMMON, *also.get(names[0], ((), ())))
        for path in (COMMON, MORE)
        for names, kind in read_list(path)
    )


def common_concepts() -> tuple[Concept, ...]:
    return tuple(concept for concept in read_concepts() if concept.common)


def choose_concepts(names: tuple[str, ...]) -> list[Concept]:
    """The concepts of these English names, in the order of the names."""
    by_name = {concept.en: concept for concept in read_concepts()}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ValueError(f"concept {unknown[0]!r} is in no list; add it to {MORE.name}")
    return [by_name[name] for name in names]


def read_list(path: Path) -> list[tuple[tuple[str, str, str, str, str], str]]:
    """Each line's hex, en, zh, classifier, plural, and the group that it stands in."""
    rows, kind = [], ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if line.startswith("@"):
            kind = line[1:]
        elif line and not line.startswith("#"):
            parts = line.split("|")
            if len(parts) not in (4, 5):
                raise ValueError(f"{path.name}:{number}: write hex|en|zh|classifier[|plural]")
            code, en, zh, classifier, plural = (*parts, pluralise(parts[1]))[:5]
            rows.append(((code, en, zh, classifier, plural), kind))
    return rows


def read_synonyms(path: Path) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split("|") for line in lines if not line.startswith("#")]
    return {code: (listed(en), listed(zh)) for code, en, zh in rows}


def listed(names: str) -> tuple[str, ...]:
    return tuple(filter(None, names.split(";")))


def pluralise(noun: str) -> str:
    if re.search(r"(s|x|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"
