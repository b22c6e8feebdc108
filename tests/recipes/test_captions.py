"""Captions: both languages name the same, and nothing that was asked for is hidden."""

import random
import re

import pytest

from recipes.mini.captions import (
    FORMS,
    bare_word,
    draw_caption,
    draw_captions,
    draw_mixed,
    draw_nameless,
    prompts,
    recase,
    words_of,
)
from recipes.mini.colours import COLOURS
from recipes.mini.concepts import choose_concepts, read_concepts
from recipes.mini.facts import PLACES, SIZES, Facts, Ground
from recipes.mini.scenes import SCENES
from recipes.mini.styles import STYLES
from recipes.mini.words import PLACE_WORDS, SIZE_WORDS, article
from tests.recipes.conftest import FOX, KINDS, ROCKET

PLAIN, ON_BLUE = Facts(FOX, "flat"), Facts(FOX, "flat", Ground("blue"))


def many(facts: Facts, count: int = 300) -> list[tuple[str, str]]:
    return [draw_captions(random.Random(seed), facts) for seed in range(count)]


def share(pairs: list[tuple[str, str]], *parts: str) -> float:
    return sum(any(part.lower() in en.lower() for part in parts) for en, _ in pairs) / len(pairs)


@pytest.mark.parametrize(
    ("kind", "en", "zh"),
    [
        ("alone", "a fox on a white background, 3D render", "一只狐狸，白色背景，3D渲染"),
        ("three", "three foxes on a blue background, 3D render", "三只狐狸，蓝色背景，3D渲染"),
        (
            "fading",
            "a fox on a yellow to pink gradient background, 3D render",
            "一只狐狸，黄色到粉色的渐变背景，3D渲染",
        ),
        (
            "dyed",
            "a green rocket on a white background, 3D render",
            "一枚绿色的火箭，白色背景，3D渲染",
        ),
        (
            "small",
            "a small fox on a white background, 3D render",
            "一只小小的狐狸，白色背景，3D渲染",
        ),
        (
            "at a corner",
            "a fox in the bottom left corner on a blue background, 3D render",
            "一只狐狸在左下角，蓝色背景，3D渲染",
        ),
        ("in snow", "a fox in a snowy field, 3D render", "一只狐狸在雪地里，3D渲染"),
        (
            "above",
            "a fox above a red lantern on a black background, 3D render",
            "一只狐狸在一个红灯笼的上面，黑色背景，3D渲染",
        ),
        (
            "pair in snow",
            "a fox to the right of a rocket in a snowy field, 3D render",
            "雪地里，一只狐狸在一枚火箭的右边，3D渲染",
        ),
    ],
)
def test_the_canonical_prompts_name_everything(kind, en, zh):
    assert prompts(KINDS[kind]) == (en, zh)


def test_the_forms_in_full():
    w = words_of(random.Random(0), Facts(FOX, "cartoon", Ground("orange")), style=True, white=True)
    style, estyle = w.style_zh, w.style_en
    written = [form(random.Random(0), w) for form in FORMS]
    assert (f"a fox on an orange background, {estyle}", f"一只狐狸，橙色背景，{style}") in written
    assert (
        f"There is a fox on an orange background, in {estyle}.",
        f"橙色背景上有一只狐狸，{style}。",
    ) in written
    assert (
        f"On an orange background, a fox, {estyle}",
        f"橙色背景上的一只狐狸，{style}",
    ) in written
    assert (f"{estyle} fox, orange background", f"{style}的狐狸，橙色背景") in written


def test_both_languages_name_the_same_style_and_the_same_background():
    for facts in (PLAIN, ON_BLUE):
        style = STYLES[facts.style]
        for en, zh in many(facts):
            named_en = [i for i, label in enumerate(style.en) if label.lower() in en.lower()]
            named_zh = [i for i, label in enumerate(style.zh) if label in zh]
            assert named_en == named_zh
            assert ("background" in en.lower()) == ("背景" in zh)


def test_a_ground_that_is_not_white_is_always_named():
    assert all("blue" in en.lower() and "蓝色" in zh for en, zh in many(ON_BLUE))
    snow, fading = many(KINDS["in snow"]), many(KINDS["fading"])
    assert all("snow" in en.lower() and "雪" in zh for en, zh in snow)
    assert all("gradient" in en.lower() and "渐变" in zh for en, zh in fading)


def test_what_sets_a_picture_apart_is_always_named_in_both():
    for place in PLACES:
        words = PLACE_WORDS[place]
        for en, zh in many(Facts(FOX, "3d", place=place), 40):
            assert any(e in en.lower() for e, _ in words), en
            assert any(z in zh for _, z in words), zh
    for size in SIZES:
        for en, zh in many(Facts(FOX, "3d", size=size), 40):
            assert any(e in en.lower() and z in zh for e, z in SIZE_WORDS[size])
    for en, zh in many(KINDS["three"], 80):
        assert re.search("three|3", en.lower())
        assert re.search("三|3只", zh)
    for en, zh in many(KINDS["dyed"], 80):
        assert "green" in en.lower()
        assert "绿色的" in zh
    for en, zh in many(KINDS["above"], 80):
        assert {"fox", "red lantern"} <= {n for n in ("fox", "red lantern") if n in en.lower()}
        assert "狐狸" in zh
        assert "红灯笼" in zh


def test_a_pair_is_told_from_either_side_but_never_the_wrong_way():
    true = {
        ("a fox to the left of a rocket", "一只狐狸在一枚火箭的左边"),
        ("a rocket to the right of a fox", "一枚火箭在一只狐狸的右边"),
        ("a fox on the left and a rocket on the right", "左边是一只狐狸，右边是一枚火箭"),
        ("a fox and a rocket", "一只狐狸和一枚火箭"),
    }
    told = set()
    for seed in range(80):
        w = words_of(random.Random(seed), KINDS["pair"], style=False, white=False)
        told.add((w.thing_en, w.thing_zh))
    assert told == true


def test_shares_of_named_styles_and_white_backgrounds():
    assert 0.4 < share(many(PLAIN), *STYLES["flat"].en) < 0.65
    assert 0.12 < share(many(PLAIN), "white background") < 0.3
    assert 0.5 < share(many(ON_BLUE), *STYLES["flat"].en) < 0.75


def test_where_a_style_is_always_named_only_the_bare_word_goes_without() -> None:
    told = [draw_captions(random.Random(seed), ON_BLUE, 1.0) for seed in range(100)]
    assert share(told, *STYLES["flat"].en) == 1.0
    told = [draw_captions(random.Random(seed), PLAIN, 1.0) for seed in range(100)]
    unnamed = {en.lower() for en, _ in told if not share([(en, "")], *STYLES["flat"].en)}
    assert unnamed == {"fox", "a fox"}


def test_nameless_captions_say_style_and_background_and_no_thing() -> None:
    told = {draw_nameless(random.Random(seed), ON_BLUE) for seed in range(100)}
    assert {"flat design, blue background", "扁平风格，蓝色背景"} <= told
    assert len(told) == len(STYLES["flat"].en) + len(STYLES["flat"].zh)
    white = {draw_nameless(random.Random(seed), PLAIN) for seed in range(100)}
    assert {"flat design", "flat design, white background", "扁平设计"} <= white


def test_people_write_bare_words_politely_in_capitals_and_with_digits():
    pairs = {pair for seed in range(1500) for pair in [draw_captions(random.Random(seed), PLAIN)]}
    assert {("fox", "狐狸"), ("a fox", "一只狐狸"), ("please draw a fox", "请画一只狐狸")} <= pairs
    english = {en for en, _ in pairs}
    assert {"Fox", "A Fox", "FOX"} & english
    assert any(en.startswith("Could you") for en in english)
    assert any("3只" in zh for _, zh in many(KINDS["three"]))


def test_synonyms_stand_for_bare_words():
    light = choose_concepts(("traffic light",))[0]
    found = {bare_word(random.Random(seed), Facts(light, "flat")) for seed in range(60)}
    english, chinese = ({pair[i] for pair in found} for i in (0, 1))
    assert {"traffic light", "a traffic light", *light.also_en} == english
    assert {"红绿灯", "一个红绿灯", *light.also_zh} == chinese
    assert light.also_en
    assert light.also_zh


def test_mixed_captions_hold_both_languages():
    for kind, facts in KINDS.items():
        both = [draw_mixed(random.Random(seed), facts) for seed in range(40)]
        crossed = [t for t in both if re.search("[a-z]", t) and re.search("[\u4e00-\u9fff]", t)]
        assert len(crossed) > 20, kind


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_tidy(kind):
    for seed in range(200):
        rng = random.Random(seed)
        for text in (*draw_captions(rng, KINDS[kind]), draw_caption(rng, KINDS[kind])):
            assert text == text.strip()
            assert not re.search(r"  |,,|，，| ,|,\.|，。|。。|\.\.", text), text
            assert not re.search(r"\ba [aeio]", text), text


def test_every_thing_has_captions_in_every_style():
    for number, concept in enumerate(read_concepts()):
        style = list(STYLES)[number % len(STYLES)]
        en, zh = prompts(Facts(concept, style))
        assert concept.en in en
        assert f"一{concept.classifier}{concept.zh}" in zh


def test_the_same_stream_writes_the_same_captions():
    assert many(ON_BLUE, 5) == many(ON_BLUE, 5)


def test_recase_leaves_the_words():
    for seed in range(60):
        text = "a fox on a blue background, 3D render."
        assert recase(random.Random(seed), text).lower().rstrip(".") == text.lower().rstrip(".")


def test_articles():
    nouns = (
        "owl",
        "unicorn",
        "one-piece",
        "OK hand",
        "hourglass",
        "euro banknote",
        "x-ray picture",
    )
    expected = ["an owl", "a unicorn", "a one-piece", "an OK hand", "an hourglass"]
    assert [article(n) for n in nouns] == [*expected, "a euro banknote", "an x-ray picture"]
    assert article("Mount Fuji") == "Mount Fuji"


def test_tables_translate_word_by_word():
    assert len({colour.zh for colour in COLOURS.values()}) == len(COLOURS)
    for table in (STYLES, SCENES):
        assert all(len(entry.en) == len(entry.zh) > 0 for entry in table.values())
    assert ROCKET.zh == "火箭"
