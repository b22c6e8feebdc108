"""Which caption is chosen, and where the trigger word goes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from danqing.errors import DataError
from danqing.training.data.captions import all_texts, choose, with_trigger
from danqing.types import BLANK
from tests.training.pictures import record

ONE = record(Path("a.png"), "fox")
THREE = record(Path("a.png"), "a red fox", "一只红色的狐狸", "un renard")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_caption_is_chosen_as_often() -> None:
    draws = rng()
    counts = Counter(choose(THREE, draws) for _ in range(3000))
    assert set(counts) == set(THREE.captions)
    assert min(counts.values()) > 900


def test_the_same_generator_gives_the_same_captions() -> None:
    first, second, other = ([choose(THREE, r) for _ in range(20)] for r in (rng(), rng(), rng(1)))
    assert first == second != other


def test_dropout_gives_a_blank_in_its_share() -> None:
    draws = rng()
    blanks = sum(choose(ONE, draws, 0.25, "sks") == BLANK for _ in range(4000))
    assert blanks == pytest.approx(1000, abs=100)
    assert {choose(ONE, draws, 1.0) for _ in range(50)} == {BLANK}
    assert {choose(ONE, draws, 0.0) for _ in range(50)} == {"fox"}


def test_a_dropped_caption_moves_no_later_draw() -> None:
    kept, dropped = rng(), rng()
    for _ in range(5):
        choose(THREE, kept, 0.0)
        choose(THREE, dropped, 1.0)
    assert kept.random() == dropped.random()


@pytest.mark.parametrize(
    ("caption", "trigger", "text"),
    [
        ("a fox", None, "a fox"),
        ("a fox", "sks", "sks, a fox"),
        ("a sks fox", "sks", "a sks fox"),
        ("sks", "sks", "sks"),
        ("a (sks) fox", "sks", "a (sks) fox"),
        ("he asks", "sks", "sks, he asks"),
        ("sks2 fox", "sks", "sks, sks2 fox"),
        ("SKS fox", "sks", "sks, SKS fox"),
        ("[trigger] fox, [trigger]", "sks", "sks fox, sks"),
        ("a [trigger] and a sks", "sks", "a sks and a sks"),
        ("一只小红狐", "小红", "一只小红狐"),
        ("一只狐狸", "小红", "小红, 一只狐狸"),
        ("一只sks狐狸", "sks", "一只sks狐狸"),
        ("a c++ logo", "c++", "a c++ logo"),
        ("a c logo", "c++", "c++, a c logo"),
        ("a(x)b", "(x)", "a(x)b"),
        ("2小红狐", "小红", "2小红狐"),
    ],
)
def test_the_trigger_word(caption: str, trigger: str | None, text: str) -> None:
    assert with_trigger(caption, trigger) == text
    assert choose(record(Path("a.png"), caption), rng(), 0.0, trigger) == text


def test_a_placeholder_needs_a_trigger_word() -> None:
    with pytest.raises(DataError, match=r"caption 'a \[trigger\]' needs a trigger word"):
        with_trigger("a [trigger]", None)


def test_all_texts_are_those_that_can_be_chosen() -> None:
    records, draws = [THREE, ONE, ONE], rng()
    texts = all_texts(records, 0.3, "sks")
    assert texts == ["sks, a red fox", "sks, 一只红色的狐狸", "sks, un renard", "sks, fox", BLANK]
    assert {choose(r, draws, 0.3, "sks") for r in records * 100} == set(texts)
    assert all_texts(records) == [*THREE.captions, "fox"]
