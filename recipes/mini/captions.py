"""English and Chinese captions, written together from the same facts: true translations.

A caption is a form (how the sentence is built), with or without the style and the background.
Without a background the picture is plain: a coloured one is always named.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from recipes.mini.colours import find_colour
from recipes.mini.facts import Facts
from recipes.mini.styles import find_style

NAME_STYLE = 0.64  # with the first caption, which names it always, about 7 in 10
NAME_WHITE = 0.16  # likewise, about 3 in 10


@dataclass(frozen=True)
class Words:
    """The parts of a caption; an empty string is a part left out."""

    noun_en: str
    noun_zh: str
    one_zh: str
    ground_en: str = ""
    ground_zh: str = ""
    style_en: str = ""
    style_zh: str = ""

    @property
    def one_en(self) -> str:
        return article(self.noun_en)

    @property
    def on_en(self) -> str:
        """As in: a fox on a blue background."""
        return self.one_en + (f" on {article(self.ground_en)}" if self.ground_en else "")

    @property
    def in_en(self) -> str:
        """As in: in flat style; as a 3D render."""
        if not self.style_en:
            return ""
        if self.style_en.endswith(("style", "design")):
            return f", in {self.style_en}"
        return f", as {article(self.style_en)}"


Pair = tuple[str, str]
Form = Callable[[Words], Pair]


def phrase(w: Words) -> Pair:
    return comma(w.on_en, w.style_en), listed(w.one_zh, w.ground_zh, w.style_zh)


def style_first(w: Words) -> Pair:
    return comma(w.style_en, w.on_en), listed(w.style_zh, w.one_zh, w.ground_zh)


def keywords(w: Words) -> Pair:
    en = comma(w.noun_en, w.style_en, w.ground_en)
    return en, listed(w.noun_zh, w.style_zh, w.ground_zh)


def sentence(w: Words) -> Pair:
    zh = listed(f"一张{w.noun_zh}的图片", w.ground_zh, w.style_zh)
    return f"A picture of {w.on_en}{w.in_en}.", f"{zh}。"


def statement(w: Words) -> Pair:
    if w.ground_en:
        en, zh = w.on_en[0].upper() + w.on_en[1:], f"{w.ground_zh}上有{w.one_zh}"
    else:
        en, zh = f"This is {w.one_en}", f"这是{w.one_zh}"
    return f"{en}{w.in_en}.", f"{listed(zh, w.style_zh)}。"


def command(w: Words) -> Pair:
    return f"Draw {w.on_en}{w.in_en}.", f"画{listed(w.one_zh, w.ground_zh, w.style_zh)}。"


def please(w: Words) -> Pair:
    return f"please draw {w.on_en}{w.in_en}", f"请画{listed(w.one_zh, w.ground_zh, w.style_zh)}"


def ground_before(w: Words) -> Pair:
    one = f"{w.ground_zh}上的{w.one_zh}" if w.ground_zh else w.one_zh
    return comma(w.on_en, w.style_en), listed(one, w.style_zh)


def style_before(w: Words) -> Pair:
    noun = f"{w.style_zh}的{w.noun_zh}" if w.style_zh else w.noun_zh
    return comma(f"{w.style_en} {w.noun_en}".strip(), w.ground_en), listed(noun, w.ground_zh)


FORMS: tuple[Form, ...] = (
    phrase,
    style_first,
    keywords,
    sentence,
    statement,
    command,
    please,
    ground_before,
    style_before,
)


def captions(rng: random.Random, facts: Facts) -> tuple[list[str], list[str]]:
    """Four to six captions in each language; the first is the canonical one."""
    count = rng.randint(4, 6)
    pairs = [prompts(facts)]
    if facts.plain:
        pairs.append(bare_word(facts, rng.random() < 0.5))
    while len(pairs) < count:
        style = rng.randrange(3) if rng.random() < NAME_STYLE else None
        ground = not facts.plain or rng.random() < NAME_WHITE
        pair = rng.choice(FORMS)(words(facts, style, ground))
        if pair not in pairs:
            pairs.append(pair)
    return [en for en, _ in pairs], [zh for _, zh in pairs]


def prompts(facts: Facts) -> Pair:
    """The simplest caption that names everything, in English and Chinese: what scoring asks for."""
    return phrase(words(facts, style=0, ground=True))


def bare_word(facts: Facts, one: bool) -> Pair:
    """What people type first: "fox" or "a fox"."""
    w = words(facts, style=None, ground=False)
    return (w.one_en, w.one_zh) if one else (w.noun_en, w.noun_zh)


def words(facts: Facts, style: int | None, ground: bool) -> Words:
    """``style``: which of its names, or None to leave it out."""
    concept, names, colour = facts.concept, find_style(facts.style), find_colour(facts.background)
    return Words(
        noun_en=concept.en,
        noun_zh=concept.zh,
        one_zh=f"一{concept.classifier}{concept.zh}",
        ground_en=f"{facts.background} background" if ground else "",
        ground_zh=f"{colour.zh}背景" if ground else "",
        style_en="" if style is None else names.en[style],
        style_zh="" if style is None else names.zh[style],
    )


def article(noun: str) -> str:
    """The indefinite article by sound, as far as the nouns here go."""
    vowel = noun[0] in "aeiou" and not noun.startswith(("uni", "one-"))
    return f"{'an' if vowel else 'a'} {noun}"


def comma(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def listed(*parts: str) -> str:
    return "，".join(filter(None, parts))
