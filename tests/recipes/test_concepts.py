"""The lists of things: unique names, measure words, synonyms that name one thing."""

import re
from collections import Counter

import pytest

from recipes.mini.concepts import (
    choose_concepts,
    common_concepts,
    pluralise,
    read_concepts,
    read_list,
)

ALL = read_concepts()


def test_there_are_1527_and_the_common_ones_come_first():
    assert len(ALL) == 1527
    assert [c.common for c in ALL] == [True] * 473 + [False] * 1054
    assert len(common_concepts()) == 473


@pytest.mark.parametrize("field", ["hex", "en", "zh"])
def test_no_two_share_a_name(field):
    counts = Counter(getattr(c, field).lower() for c in ALL)
    assert [name for name, n in counts.items() if n > 1] == []


def test_names_are_noun_phrases_without_the_marks_of_lists():
    for c in ALL:
        assert re.fullmatch(r"[A-Za-zñ0-9'.,\- ]+", c.en), c
        assert re.fullmatch(r"[\u4e00-\u9fffA-Za-z0-9]+", c.zh), c
        assert re.fullmatch(r"[\u4e00-\u9fff]", c.classifier), c
        assert c.plural == c.plural.strip(), c
        assert not c.en.startswith(("a ", "an ", "the "))


def test_flags_letters_and_skin_tones_are_left_out():
    for c in ALL:
        assert not re.search(r"1f1[ef][0-9a-f]|20e3|1f3f[b-f]|1f170", c.hex), c


def test_a_synonym_belongs_to_one_thing_and_is_no_name():
    for field, name in (("also_en", "en"), ("also_zh", "zh")):
        words = [word.lower() for c in ALL for word in getattr(c, field)]
        assert len(words) == len(set(words))
        assert not set(words) & {getattr(c, name).lower() for c in ALL}
        assert len(words) > 1000


def test_some_by_hand():
    fox, ox, cards = choose_concepts(("fox", "ox", "pair of chopsticks"))
    assert (fox.zh, fox.classifier, fox.plural) == ("狐狸", "只", "foxes")
    assert (ox.zh, ox.classifier, ox.plural) == ("公牛", "头", "oxen")
    assert (cards.zh, cards.classifier) == ("筷子", "双")


def test_an_unknown_name_is_told():
    with pytest.raises(ValueError, match="concept 'foxx' is in no list"):
        choose_concepts(("fox", "foxx"))


def test_a_line_with_a_field_too_few_is_told(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("@animal\n1f98a|fox|狐狸\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"list\.txt:2: write hex\|en\|zh"):
        read_list(path)


def test_plurals():
    plurals = [pluralise(noun) for noun in ("bus", "butterfly", "key", "cat")]
    assert plurals == ["buses", "butterflies", "keys", "cats"]
