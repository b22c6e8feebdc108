"""All the text that the tokenizer of `mini` must keep whole.

More than the first edition's captions: every concept, style and colour of the tables, so that
later editions need no other tokenizer. Every word of English starts a new piece and so does every
comma of either language, so it is enough to see each thing once beside each colour and each style:
three of them never meet in one piece.
"""

import string
from collections.abc import Iterator

from recipes.mini.captions import FORMS, Pair, words
from recipes.mini.colours import COLOURS, WHITE
from recipes.mini.concepts import Concept, read_concepts
from recipes.mini.facts import Facts
from recipes.mini.styles import STYLES

# The prompt template of Qwen-Image, word for word (QwenImagePipeline of diffusers).
PREFIX = (
    "<|im_start|>system\n"
    "Describe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
PUNCTUATION = "，。：；！？、“”‘’（）《》…—"


def corpus(extra: tuple[str, ...]) -> Iterator[str]:
    yield PREFIX + SUFFIX
    yield from (*string.digits, *string.punctuation, *PUNCTUATION, *extra)
    yield from (f" {mark}" for mark in string.punctuation)
    for concept in read_concepts():
        for pair in (*all_captions(concept), *all_numbers(concept), *all_colours(concept)):
            yield from pair


def all_captions(concept: Concept) -> Iterator[Pair]:
    for form in FORMS:
        for colour in COLOURS:
            yield form(words(Facts(concept, "flat", colour), style=None, ground=True))
        for name, style in STYLES.items():
            for label in range(len(style.en)):
                yield form(words(Facts(concept, name, WHITE), style=label, ground=False))


def all_numbers(concept: Concept) -> Iterator[Pair]:
    for en, zh in (("two", "两"), ("three", "三"), ("four", "四"), ("five", "五"), ("six", "六")):
        yield f"{en} {concept.plural}", f"{zh}{concept.classifier}{concept.zh}"


def all_colours(concept: Concept) -> Iterator[Pair]:
    for name, colour in COLOURS.items():
        yield f"a {name} {concept.en}", f"一{concept.classifier}{colour.zh}的{concept.zh}"
