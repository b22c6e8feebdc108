"""Values that stand beside a picture: which are understood, and which are refused."""

import math
from pathlib import Path
from typing import Any

import pytest

from danqing.errors import DataError
from danqing.training.data import findings
from danqing.training.data.findings import Draft
from danqing.training.data.records import Place, Source

IMAGE = Place(Path("a.png"))


def test_a_record_multiplies_the_repeats_and_weights() -> None:
    draft = Draft("a.png", IMAGE, ("fox",), {"repeats": 2, "weight": 0.5})
    made = findings.finish(draft, Source("photos", repeats=3, weight=4.0))
    assert (made.repeats, made.weight) == (6, 2.0)
    plain = findings.finish(Draft("a.png", IMAGE, ("fox",), {}), Source("photos"))
    assert (plain.repeats, plain.weight, plain.captions) == (1, 1.0, ("fox",))


def test_the_default_caption_stands_in_only_where_there_is_none() -> None:
    source = Source("photos", caption="sks dog")
    assert findings.finish(Draft("a", IMAGE, (), {}), source).captions == ("sks dog",)
    assert findings.finish(Draft("a", IMAGE, ("fox",), {}), source).captions == ("fox",)
    assert findings.finish(Draft("a", IMAGE, (), {}), Source("photos")).captions == ()


def test_captions_of_several_lines_in_any_language() -> None:
    content = "\ufeffa red fox\r\n\n  一只红色的狐狸  \nune renarde\u2028rousse\n".encode()
    wanted = ("a red fox", "一只红色的狐狸", "une renarde\u2028rousse")
    assert findings.lines(content) == wanted
    assert findings.lines(b" \n\n") == ()


def test_text_that_is_not_utf8_is_named_by_its_line() -> None:
    with pytest.raises(DataError, match=r"^line 2: .*; save the file as UTF-8$"):
        findings.lines(b"fox\n" + "狐狸".encode("gbk"))


def test_a_caption_is_a_text_or_a_list() -> None:
    assert findings.texts(" fox ") == ("fox",)
    assert findings.texts(["fox", "", "狐狸"]) == ("fox", "狐狸")
    for wrong in (5, ["fox", None], {"en": "fox"}):
        with pytest.raises(DataError, match="must be a text or a list of texts"):
            findings.texts(wrong)


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, "2", None])
def test_repeats_are_whole_numbers(wrong: Any) -> None:
    assert findings.count(3, "repeats") == 3
    with pytest.raises(DataError, match=r"repeats .* must be a whole number from 1 to 10000"):
        findings.count(wrong, "repeats")


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, True, "2", 10**400])
def test_weights_are_numbers_above_zero(wrong: Any) -> None:
    assert findings.positive(2, "weight") == 2.0
    with pytest.raises(DataError, match=r"weight .* must be a number above 0"):
        findings.positive(wrong, "weight")


def test_one_name_of_several_for_the_same_thing() -> None:
    names = ("caption", "text")
    assert findings.one_of({"text": "fox", "caption": None}, names) == "fox"
    assert findings.one_of({}, names) is None
    with pytest.raises(DataError, match="has both caption and text"):
        findings.one_of({"text": "fox", "caption": "dog"}, names)


def test_what_is_a_picture() -> None:
    assert all(map(findings.is_picture, ["a.png", "a.JPG", "a.b.webp", "a.jpeg"]))
    assert not any(map(findings.is_picture, ["a.mask.png", "a.txt", "png", "a.heic", "A.MASK.PNG"]))
