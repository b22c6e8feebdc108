"""Captions: what is named in one language is named in the other, and backgrounds are not hidden."""

import random

import pytest

from recipes.mini.captions import FORMS, article, captions, prompts, words
from recipes.mini.colours import COLOURS, WHITE
from recipes.mini.concepts import choose_concepts, pluralise, read_concepts
from recipes.mini.facts import Facts
from recipes.mini.styles import STYLES

FOX = choose_concepts(("fox",), 1)[0]
ON_BLUE = Facts(FOX, "flat", "blue")
PLAIN = Facts(FOX, "flat", WHITE)


def many(facts: Facts, count: int = 400) -> list[tuple[str, str]]:
    drawn = (captions(random.Random(seed), facts) for seed in range(count))
    return [pair for en, zh in drawn for pair in zip(en, zh, strict=True)]


def share(pairs: list[tuple[str, str]], *parts: str) -> float:
    return sum(any(part in en for part in parts) for en, _ in pairs) / len(pairs)


def test_the_canonical_prompts_name_everything():
    en, zh = prompts(ON_BLUE)
    assert en == "a fox on a blue background, flat design"
    assert zh == "一只狐狸，蓝色背景，扁平设计"
    assert prompts(PLAIN)[0] == "a fox on a white background, flat design"


@pytest.mark.parametrize("facts", [PLAIN, ON_BLUE])
def test_four_to_six_different_captions_the_canonical_one_first(facts):
    for seed in range(50):
        en, zh = captions(random.Random(seed), facts)
        assert (en[0], zh[0]) == prompts(facts)
        assert len(en) == len(zh)
        assert 4 <= len(set(zip(en, zh, strict=True))) == len(en) <= 6


def test_a_coloured_background_is_always_named_in_both_languages():
    pairs = many(ON_BLUE)
    assert all("blue background" in en and "蓝色背景" in zh for en, zh in pairs)


@pytest.mark.parametrize("facts", [PLAIN, ON_BLUE])
def test_both_languages_name_the_same_style_and_the_same_background(facts):
    style = STYLES[facts.style]
    for en, zh in many(facts):
        assert "fox" in en.lower()
        assert "狐狸" in zh
        named_en = [i for i, label in enumerate(style.en) if label in en]
        named_zh = [i for i, label in enumerate(style.zh) if label in zh]
        assert named_en == named_zh
        assert ("background" in en) == ("背景" in zh)


def test_shares_of_named_styles_and_white_backgrounds():
    pairs = many(PLAIN)
    assert 0.2 < share(pairs, "white background") < 0.4
    assert 0.6 < share(many(ON_BLUE), *STYLES["flat"].en) < 0.8


def test_plain_pictures_are_called_by_bare_words_too():
    pairs = set(many(PLAIN))
    assert {("fox", "狐狸"), ("a fox", "一只狐狸"), ("please draw a fox", "请画一只狐狸")} <= pairs


def test_the_forms_in_full():
    w = words(Facts(FOX, "3d", "orange"), style=0, ground=True)
    assert [form(w) for form in FORMS] == [
        ("a fox on an orange background, 3D render", "一只狐狸，橙色背景，3D渲染"),
        ("3D render, a fox on an orange background", "3D渲染，一只狐狸，橙色背景"),
        ("fox, 3D render, orange background", "狐狸，3D渲染，橙色背景"),
        (
            "A picture of a fox on an orange background, as a 3D render.",
            "一张狐狸的图片，橙色背景，3D渲染。",
        ),
        ("A fox on an orange background, as a 3D render.", "橙色背景上有一只狐狸，3D渲染。"),
        ("Draw a fox on an orange background, as a 3D render.", "画一只狐狸，橙色背景，3D渲染。"),
        (
            "please draw a fox on an orange background, as a 3D render",
            "请画一只狐狸，橙色背景，3D渲染",
        ),
        ("a fox on an orange background, 3D render", "橙色背景上的一只狐狸，3D渲染"),
        ("3D render fox, orange background", "3D渲染的狐狸，橙色背景"),
    ]


def test_the_same_stream_writes_the_same_captions():
    assert captions(random.Random("a"), ON_BLUE) == captions(random.Random("a"), ON_BLUE)
    assert captions(random.Random("a"), ON_BLUE) != captions(random.Random("b"), ON_BLUE)


def test_articles_and_plurals():
    nouns = ("owl", "unicorn", "one-piece", "orange background", "3D render")
    expected = ["an owl", "a unicorn", "a one-piece", "an orange background", "a 3D render"]
    assert [article(noun) for noun in nouns] == expected
    plurals = [pluralise(noun) for noun in ("bus", "butterfly", "key", "cat")]
    assert plurals == ["buses", "butterflies", "keys", "cats"]


def test_names_are_unique_in_each_language_and_colour():
    concepts = read_concepts()
    assert len({c.hex for c in concepts}) == len({c.en for c in concepts}) == len(concepts) == 473
    assert len({c.zh for c in concepts}) == len(concepts)
    assert len({colour.zh for colour in COLOURS.values()}) == len(COLOURS)
