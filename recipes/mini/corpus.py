"""All the text that the tokenizer of `mini` must keep whole.

Pieces end at every space of English and at every mark of either language, but a Chinese clause is
one piece, whose cut may hang on its neighbours. So every name is seen after everything that can
stand before it and before everything that can follow it; and thousands of captions are drawn as in
training, for what no list foresaw.
"""

import itertools
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from recipes.mini.captions import draw_caption, draw_captions
from recipes.mini.colours import COLOURS
from recipes.mini.concepts import Concept, read_concepts
from recipes.mini.facts import MOST, PLACES, RELATIONS, SIZES, Facts, Ground
from recipes.mini.scenes import SCENES
from recipes.mini.styles import STYLES
from recipes.mini.words import NUMBERS, PLACE_WORDS, SIDES, SIZE_WORDS, Pair

# The prompt template of Qwen-Image, word for word (QwenImagePipeline of diffusers).
PREFIX = (
    "<|im_start|>system\n"
    "Describe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n"
)
Case = Callable[[str], str]
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
PUNCTUATION = "，。：；！？、“”‘’（）《》…—"
DRAWS = 12  # captions of each concept
VERBS_ZH = ("画", "画出", "生成", "给我看", "请画", "请帮我画", "能不能帮我画", "麻烦画", "我想要",
            "图中有", "这是", "有", "上有", "里有", "中有", "下有", "前有")  # fmt: skip


def corpus(extra: tuple[str, ...]) -> Iterator[str]:
    yield PREFIX + SUFFIX
    yield from (*string.digits, *string.punctuation, *PUNCTUATION, *extra)
    yield from (
        *string.ascii_letters,
        *(f" {mark}" for mark in string.ascii_letters + string.punctuation),
    )
    yield from all_words()
    for concept in read_concepts():
        yield from all_names(concept)
        yield from drawn(concept, "corpus", DRAWS)


def all_words() -> Iterator[str]:
    """Every part of a caption but the names, in English as anybody may write it."""
    pairs: list[Pair] = [(name, colour.zh) for name, colour in COLOURS.items()]
    pairs += [pair for size in SIZE_WORDS.values() for pair in size]
    pairs += [pair for place in PLACE_WORDS.values() for pair in place]
    pairs += [pair for style in STYLES.values() for pair in zip(style.en, style.zh, strict=True)]
    pairs += [pair for scene in SCENES.values() for pair in zip(scene.en, scene.zh, strict=True)]
    pairs += [*NUMBERS.values(), *((en, zh) for en, zh, _ in SIDES.values())]
    for en, zh in pairs:
        yield from (*cases(en), zh)


def all_names(concept: Concept) -> Iterator[str]:
    for name in (concept.en, concept.plural):
        yield from cases(name) if concept.common else cases(name, (str, capitalised))
    yield from (form for name in concept.also_en for form in (name, f" {name}"))
    yield from concept.also_zh
    zh, one = concept.zh, f"一{concept.classifier}"
    adjectives = [w for _, w in itertools.chain(*SIZE_WORDS.values())]
    adjectives += [f"{c.zh}的" for c in COLOURS.values()]
    styles = [f"{label}的" for style in STYLES.values() for label in style.zh]
    yield from (start + zh for start in ("", one, *styles, *(one + a for a in adjectives)))
    yield from (f"{n}{concept.classifier}{zh}" for _, n in NUMBERS.values())
    yield from (f"{verb}{one}{zh}" for verb in VERBS_ZH)
    places = [place for pairs in PLACE_WORDS.values() for _, place in pairs]
    scenes = [label for scene in SCENES.values() for label in scene.zh]
    yield from (f"{one}{zh}在{place}" for place in places)
    yield from (f"{one}{zh}{label}" for label in scenes)
    yield from (f"{one}{zh}在{one}{zh}的{side}" for _, side, _ in SIDES.values())
    yield f"{one}{zh}和{one}{zh}"


def capitalised(text: str) -> str:
    return " ".join(word[:1].upper() + word[1:] for word in text.split(" "))


def cases(text: str, ways: tuple[Case, ...] = (str, capitalised, str.upper)) -> Iterator[str]:
    """At the start and after a space; capitals of rare names would cost a thousand rows."""
    for way in ways:
        yield from (way(text), f" {way(text)}")


def drawn(concept: Concept, key: str, count: int) -> Iterator[str]:
    """Captions of the concept as training draws them."""
    rng = random.Random(f"{key}|{concept.hex}")
    concepts = read_concepts()
    for _ in range(count):
        facts = any_facts(rng, concept, concepts)
        yield from draw_captions(rng, facts)
        yield draw_caption(rng, facts)


def any_facts(rng: random.Random, concept: Concept, concepts: tuple[Concept, ...]) -> Facts:
    """Whether or not there is such a drawing: words do not ask."""
    names = list(COLOURS)
    ground = rng.choice(
        (
            Ground(),
            Ground(rng.choice(names)),
            Ground(*rng.sample(names, 2)),
            Ground(scene=rng.choice(list(SCENES))),
        )
    )
    facts = Facts(concept, rng.choice(list(STYLES)), ground, rng.choice((None, *names)))
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"count": rng.randint(2, MOST)},
        {"place": rng.choice(PLACES)},
        {"size": rng.choice(SIZES)},
        {"other": rng.choice(concepts), "relation": rng.choice(RELATIONS)},
    )
    return replace(facts, **rng.choice(kinds))
