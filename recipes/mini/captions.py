"""Captions as people write them, in English, in Chinese and in both at once.

A caption is a form (how the sentence is built) over words (words.py). What sets a picture apart
(count, place, size, dye, a coloured ground, a second thing) is always named; style and a white
ground are only now and then: what is not asked for may be anything, or is white.
"""

import random
import re
from collections.abc import Callable
from dataclasses import replace

from recipes.mini.colours import WHITE
from recipes.mini.facts import Facts
from recipes.mini.styles import find_style
from recipes.mini.words import Pair, Words, article, draw_words

NAME_STYLE = 0.64
NAME_WHITE = 0.25
BARE = 0.2  # share of the bare word, where nothing else has to be named
SYNONYM = 0.25  # share of other names among bare words and lists
MIXED = 0.05  # share of captions in both languages at once
LITTLE = ("a", "an", "the", "of", "on", "in", "at", "with", "and", "to", "by")

Form = Callable[[random.Random, Words], Pair]


def phrase(rng: random.Random, w: Words) -> Pair:
    return comma(whole_en(w), w.style_en), listed(whole_zh(w), w.style_zh)


def style_first(rng: random.Random, w: Words) -> Pair:
    return comma(w.style_en, whole_en(w)), listed(w.style_zh, whole_zh(w))


def keywords(rng: random.Random, w: Words) -> Pair:
    rest = [
        (w.place_en, w.place_zh),
        (w.style_en, w.style_zh),
        (w.backdrop_en, w.backdrop_zh),
    ]
    rng.shuffle(rest)
    en, zh = zip((w.noun_en, w.noun_zh), *rest, strict=True)
    return comma(*en), listed(*zh)


def sentence(rng: random.Random, w: Words) -> Pair:
    en = rng.choice(("A picture of", "An image of", "This is a picture of"))
    return f"{en} {whole_en(w)}{in_style(w)}.", f"{listed('图中' + there_is(w), w.style_zh)}。"


def statement(rng: random.Random, w: Words) -> Pair:
    be = "are" if w.many else "is"
    return f"There {be} {whole_en(w)}{in_style(w)}.", f"{listed(ground_has(w), w.style_zh)}。"


def command(rng: random.Random, w: Words) -> Pair:
    en, zh = rng.choice(
        (
            ("Draw", "画"),
            ("Paint", "画"),
            ("Create", "画出"),
            ("Generate", "生成"),
            ("Show me", "给我看"),
        )
    )
    return f"{en} {whole_en(w)}{in_style(w)}.", f"{listed(zh + asked(w), w.style_zh)}。"


def please(rng: random.Random, w: Words) -> Pair:
    ask, style = f"{whole_en(w)}{in_style(w)}", w.style_zh
    return rng.choice(
        (
            (f"please draw {ask}", listed("请画" + asked(w), style)),
            (f"Please paint {ask}.", f"{listed('请帮我画' + asked(w), style)}。"),
            (f"Could you draw {ask}, please?", f"{listed('请画' + asked(w), style)}，好吗？"),
            (f"Can you paint {ask} for me?", f"{listed('能不能帮我画' + asked(w), style)}？"),
            (f"Please draw {ask}, thank you!", f"{listed('麻烦画' + asked(w), style)}，谢谢！"),
            (f"I would like {ask}.", f"{listed('我想要' + asked(w), style)}。"),
        )
    )


def ground_before(rng: random.Random, w: Words) -> Pair:
    if not w.ground_en:
        return phrase(rng, w)
    start = w.ground_en[0].upper() + w.ground_en[1:]
    en = comma(start, placed_en(w), w.style_en)
    zh = f"{w.ground_zh}的{placed_zh(w)}" if w.simple else f"{w.ground_zh}，{placed_zh(w)}"
    return en, listed(zh, w.style_zh)


def style_before(rng: random.Random, w: Words) -> Pair:
    if not w.simple or not w.style_en:
        return phrase(rng, w)
    en = comma(f"{w.style_en} {w.noun_en}", w.place_en, w.backdrop_en)
    return en, listed(f"{w.style_zh}的{w.noun_zh}", w.place_zh, w.backdrop_zh)


FORMS: tuple[Form, ...] = (
    phrase,
    phrase,
    style_first,
    keywords,
    keywords,
    sentence,
    statement,
    command,
    please,
    ground_before,
    style_before,
)


def draw_caption(rng: random.Random, facts: Facts, name_style: float = NAME_STYLE) -> str:
    """What training reads: half English, half Chinese, now and then both at once.

    ``name_style``: the share of captions that say the style.
    """
    if rng.random() < MIXED:
        return draw_mixed(rng, facts, name_style)
    return rng.choice(draw_captions(rng, facts, name_style))


def draw_captions(rng: random.Random, facts: Facts, name_style: float = NAME_STYLE) -> Pair:
    """One caption in both languages; the English one may be written in capitals."""
    en, zh = draw_plain(rng, facts, name_style)
    return recase(rng, en), zh


def draw_plain(rng: random.Random, facts: Facts, name_style: float) -> Pair:
    style, white = rng.random() < name_style, rng.random() < NAME_WHITE
    if facts.alone and facts.ground.name == WHITE and rng.random() < BARE:
        return bare_word(rng, facts)
    form, names = rng.choice(FORMS), None
    if form is keywords and facts.alone and rng.random() < SYNONYM:
        names = other_names(rng, facts)
    return form(rng, words_of(rng, facts, style, white, names))


def words_of(
    rng: random.Random, facts: Facts, style: bool, white: bool, names: Pair | None = None
) -> Words:
    chosen = rng.randrange(len(find_style(facts.style).en)) if style else None
    return draw_words(rng, facts, chosen, white or facts.ground.name != WHITE, names)


def bare_word(rng: random.Random, facts: Facts) -> Pair:
    """What people type first: "fox", "a fox", "red fox"."""
    names = other_names(rng, facts) if rng.random() < SYNONYM else None
    w = words_of(rng, facts, style=False, white=False, names=names)
    with_one = names is None and rng.random() < 0.5
    return (w.thing_en, w.thing_zh) if with_one else (w.noun_en, w.noun_zh)


def draw_nameless(rng: random.Random, facts: Facts) -> str:
    """Style and background alone, in either language: how a style looks, whatever it shows."""
    w = words_of(rng, facts, style=True, white=rng.random() < NAME_WHITE)
    return rng.choice((comma(w.style_en, w.backdrop_en), listed(w.style_zh, w.backdrop_zh)))


def other_names(rng: random.Random, facts: Facts) -> Pair | None:
    """A synonym in each language that has one; they name the same thing, not each other."""
    concept = facts.concept
    if not concept.also_en and not concept.also_zh:
        return None
    return rng.choice(concept.also_en or (concept.en,)), rng.choice(
        concept.also_zh or (concept.zh,)
    )


def draw_mixed(rng: random.Random, facts: Facts, name_style: float = NAME_STYLE) -> str:
    """English words in a Chinese sentence or the other way round."""
    w = words_of(rng, facts, rng.random() < name_style, rng.random() < NAME_WHITE)
    way = rng.randrange(3)
    if way == 0:
        return rng.choice((phrase, command, please))(rng, replace(w, style_zh=w.style_en))[1]
    concept = facts.concept
    if way == 1:
        swapped = replace(concept, zh=rng.choice((concept.en, f" {concept.en} ")))
        mixed = replace(facts, concept=swapped)
        zh = draw_words(rng, mixed, None, bool(w.ground_en))
        zh = replace(zh, style_zh=w.style_zh)
        return tidy(rng.choice((phrase, statement, please))(rng, zh)[1])
    swapped = replace(concept, en=concept.zh, plural=concept.zh)
    en = draw_words(rng, replace(facts, concept=swapped), None, bool(w.ground_en))
    return rng.choice((phrase, command, please))(rng, replace(en, style_en=w.style_en))[0]


def tidy(text: str) -> str:
    return re.sub(r" +(?=[，。]|$)", "", text).strip()


def prompts(facts: Facts) -> Pair:
    """The simplest caption that names everything, in English and Chinese: what scoring asks for."""
    rng = Canonical()
    return phrase(rng, draw_words(rng, facts, 0, name_ground=True))


class Canonical(random.Random):
    """Always the first choice, and numbers in words."""

    def choice(self, seq):
        return seq[0]

    def random(self) -> float:
        return 1.0

    def randrange(self, start, stop=None, step=1) -> int:
        return 0


def placed_en(w: Words) -> str:
    return f"{w.thing_en} {w.place_en}".strip()


def whole_en(w: Words) -> str:
    """As in: a fox in the top left corner on a blue background."""
    return f"{placed_en(w)} {w.ground_en}".strip()


def in_style(w: Words) -> str:
    """As in: in flat style; as a 3D render."""
    if not w.style_en:
        return ""
    if w.style_en.endswith(("style", "design")):
        return f", in {w.style_en}"
    return f", as {article(w.style_en)}"


def placed_zh(w: Words) -> str:
    return f"{w.thing_zh}在{w.place_zh}" if w.place_zh else w.thing_zh


def whole_zh(w: Words) -> str:
    if not w.scenic or not w.ground_zh:
        return listed(placed_zh(w), w.backdrop_zh)
    return f"{w.thing_zh}在{w.ground_zh}" if w.simple else f"{w.ground_zh}，{w.thing_zh}"


def there_is(w: Words) -> str:
    return f"有{whole_zh(w)}" if w.simple else whole_zh(w)


def ground_has(w: Words) -> str:
    """As in: 蓝色背景的左上角有一只狐狸; 雪地里，一只狐狸在一只猫的左边."""
    if not w.simple:
        return f"{w.ground_zh}，{w.thing_zh}" if w.ground_zh else w.thing_zh
    if w.place_zh:
        where = f"{w.backdrop_zh}的{w.place_zh}" if w.backdrop_zh else w.place_zh
        return f"{where}有{w.thing_zh}"
    return f"{w.ground_zh}有{w.thing_zh}" if w.ground_zh else f"这是{w.thing_zh}"


def asked(w: Words) -> str:
    """What follows a verb: a thing, or "a picture: ..." where it is a sentence of its own."""
    return whole_zh(w) if w.simple else f"一张图：{whole_zh(w)}"


def recase(rng: random.Random, text: str) -> str:
    """Now and then as people write who like capitals, or who leave the full stop out."""
    chance = rng.random()
    if chance < 0.1:
        text = text[0].upper() + text[1:]
    elif chance < 0.15:
        text = " ".join(word[:1].upper() + word[1:] for word in text.split(" "))
    elif chance < 0.19:
        text = " ".join(w if w in LITTLE else w[:1].upper() + w[1:] for w in text.split(" "))
        text = text[0].upper() + text[1:]
    elif chance < 0.22:
        text = text.upper()
    elif chance < 0.3:
        text = text.lower()
    return text.removesuffix(".") if rng.random() < 0.2 else text


def comma(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def listed(*parts: str) -> str:
    return "，".join(filter(None, parts))
