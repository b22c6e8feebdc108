"""The parts of a caption in both languages: what is there, where, before what, in which style.

Both languages are made from the same facts by the same choices, so whatever is put together from
the parts stays a true translation.
"""

import random
from dataclasses import dataclass

from recipes.mini.colours import COLOURS
from recipes.mini.concepts import Concept
from recipes.mini.facts import Facts
from recipes.mini.scenes import SCENES
from recipes.mini.styles import find_style

Pair = tuple[str, str]
DIGITS = 0.12  # how often a count is written "3"

NUMBERS = {
    1: ("one", "一"),
    2: ("two", "两"),
    3: ("three", "三"),
    4: ("four", "四"),
    5: ("five", "五"),
}
SIZE_WORDS: dict[str, tuple[Pair, ...]] = {
    "small": (("small", "小小的"), ("tiny", "很小的"), ("little", "小小的")),
    "medium": (("medium-sized", "中等大小的"),),
    "large": (("large", "很大的"), ("big", "大大的"), ("huge", "巨大的")),
}
PLACE_WORDS: dict[str, tuple[Pair, ...]] = {
    "left": (("on the left", "左边"), ("on the left side", "左侧")),
    "right": (("on the right", "右边"), ("on the right side", "右侧")),
    "top": (("at the top", "上方"), ("at the top", "顶部")),
    "bottom": (("at the bottom", "下方"), ("at the bottom", "底部")),
    "center": (("in the center", "中央"), ("in the middle", "正中间")),
    "top left": (("in the top left corner", "左上角"), ("in the upper left corner", "左上角")),
    "top right": (("in the top right corner", "右上角"), ("in the upper right corner", "右上角")),
    "bottom left": (
        ("in the bottom left corner", "左下角"),
        ("in the lower left corner", "左下角"),
    ),
    "bottom right": (
        ("in the bottom right corner", "右下角"),
        ("in the lower right corner", "右下角"),
    ),
}
# The word, its opposite, and the two sides, for "A is ... of B" and "A here and B there".
SIDES = {
    "left": ("to the left of", "左边", "on the left"),
    "right": ("to the right of", "右边", "on the right"),
    "above": ("above", "上面", "at the top"),
    "below": ("below", "下面", "at the bottom"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Words:
    """Empty strings are left out. ``noun``: without article or measure word, for lists.

    ``simple``: the Chinese thing is a bare noun phrase, so that words may be put around it.
    """

    thing_en: str
    thing_zh: str
    noun_en: str
    noun_zh: str
    many: bool = False
    simple: bool = True
    place_en: str = ""
    place_zh: str = ""
    ground_en: str = ""  # "on a blue background"
    ground_zh: str = ""  # "蓝色背景上"
    backdrop_en: str = ""  # "blue background"
    backdrop_zh: str = ""
    scenic: bool = False
    style_en: str = ""
    style_zh: str = ""


def draw_words(
    rng: random.Random,
    facts: Facts,
    style: int | None,
    name_ground: bool,
    names: Pair | None = None,
) -> Words:
    """``style``: which of its names, or None for none; ``names``: instead of the concept's own."""
    label = find_style(facts.style)
    thing = draw_pair(rng, facts) if facts.other else draw_thing(rng, facts, names)
    place = rng.choice(PLACE_WORDS[facts.place]) if facts.place else ("", "")
    ground = draw_ground(rng, facts) if name_ground else ("", "", "", "")
    return Words(
        *thing,
        many=facts.count > 1,
        simple=facts.other is None,
        place_en=place[0],
        place_zh=place[1],
        ground_en=ground[0],
        ground_zh=ground[1],
        backdrop_en=ground[2],
        backdrop_zh=ground[3],
        scenic=facts.ground.scene is not None,
        style_en="" if style is None else label.en[style],
        style_zh="" if style is None else label.zh[style],
    )


def draw_thing(rng: random.Random, facts: Facts, names: Pair | None) -> tuple[str, str, str, str]:
    """With article or number; without."""
    concept = facts.concept
    en, zh = names or (concept.en, concept.zh)
    plural = concept.plural if names is None else en
    size = rng.choice(SIZE_WORDS[facts.size]) if facts.size else ("", "")
    tint = (facts.tint, COLOURS[facts.tint].zh + "的") if facts.tint else ("", "")
    before_en = " ".join(filter(None, (size[0], tint[0])))
    noun_en = f"{before_en} {en}".strip()
    noun_zh = size[1] + tint[1] + zh
    if facts.count == 1:
        return article(noun_en), f"一{concept.classifier}{noun_zh}", noun_en, noun_zh
    number_en, number_zh = NUMBERS[facts.count]
    if rng.random() < DIGITS:
        number_en = number_zh = str(facts.count)
    many_en = " ".join(filter(None, (number_en, before_en, plural)))
    many_zh = f"{number_zh}{concept.classifier}{noun_zh}"
    return many_en, many_zh, many_en, many_zh


def draw_pair(rng: random.Random, facts: Facts) -> tuple[str, str, str, str]:
    """Told from either side, as two halves, or only as two things side by side."""
    assert facts.other is not None
    assert facts.relation is not None
    (a, A), (b, B) = named(facts.concept, facts.tint), named(facts.other, None)
    relation = facts.relation
    forms = [beside(a, A, b, B, relation), beside(b, B, a, A, OPPOSITE[relation])]
    first, second = ((a, A), (b, B)) if relation in ("left", "above") else ((b, B), (a, A))
    forms.append(halves(first, second, "left" if relation in ("left", "right") else "above"))
    if relation in ("left", "right"):
        (c, C), (d, D) = first, second
        forms.append((f"{c} and {d}", f"{C}和{D}"))
    en, zh = rng.choice(forms[:2] * 2 + forms[2:])
    return en, zh, en, zh


def named(concept: Concept, tint: str | None) -> Pair:
    tint_en, tint_zh = (f"{tint} ", COLOURS[tint].zh + "的") if tint else ("", "")
    return article(tint_en + concept.en), f"一{concept.classifier}{tint_zh}{concept.zh}"


def beside(a: str, A: str, b: str, B: str, relation: str) -> Pair:
    en, zh, _ = SIDES[relation]
    return f"{a} {en} {b}", f"{A}在{B}的{zh}"


def halves(first: Pair, second: Pair, relation: str) -> Pair:
    (_, here_zh, here), (_, there_zh, there) = SIDES[relation], SIDES[OPPOSITE[relation]]
    en = f"{first[0]} {here} and {second[0]} {there}"
    return en, f"{here_zh}是{first[1]}，{there_zh}是{second[1]}"


def draw_ground(rng: random.Random, facts: Facts) -> tuple[str, str, str, str]:
    """As a phrase of place in both languages, and as an entry of a list in both."""
    ground = facts.ground
    if ground.scene:
        scene = SCENES[ground.scene]
        chosen = rng.randrange(len(scene.en))
        return scene.en[chosen], scene.zh[chosen].removeprefix("在"), scene.name_en, scene.name_zh
    if ground.fade:
        top, bottom = COLOURS[ground.colour].zh, COLOURS[ground.fade].zh
        en = f"{ground.colour} to {ground.fade} gradient background"
        zh = f"{top}到{bottom}的渐变背景"
    else:
        en, zh = f"{ground.colour} background", f"{COLOURS[ground.colour].zh}背景"
    return f"on {article(en)}", f"{zh}上", en, zh


def article(noun: str) -> str:
    """The indefinite article by sound, as far as the nouns here go."""
    if noun.startswith(("Mount ", "DNA ")):
        return noun if noun.startswith("Mount") else f"a {noun}"
    sounds_consonant = noun.lower().startswith(("uni", "one-", "euro"))
    vowel = noun[0].lower() in "aeiou" and not sounds_consonant
    return f"{'an' if vowel or noun.startswith(('hourglass', 'x-ray')) else 'a'} {noun}"
