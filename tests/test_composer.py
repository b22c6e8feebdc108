import pytest

from danqing import composer
from danqing.composer import MAX_PATCHES, compose


def test_nothing_makes_no_pack() -> None:
    assert compose([], together=True) == []


def test_apart_everyone_rides_alone() -> None:
    assert compose([4, 4, 4], together=False) == [[0], [1], [2]]


def test_together_all_ride_in_the_order_asked() -> None:
    assert compose([4, 9, 4], together=True) == [[0, 1, 2]]


def test_a_pack_is_filled_to_the_limit_and_not_beyond() -> None:
    half = MAX_PATCHES // 2
    assert compose([half, half, 1], together=True) == [[0, 1], [2]]
    assert compose([half, half + 1, half - 1, 1], together=True) == [[0], [1, 2], [3]]


def test_a_picture_beyond_the_limit_rides_alone() -> None:
    assert compose([1, MAX_PATCHES + 1, 1], together=True) == [[0], [1], [2]]


@pytest.mark.parametrize("limit", [1, 5, 100])
def test_every_picture_rides_once(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(composer, "MAX_PATCHES", limit)
    packs = compose(list(range(1, 12)), together=True)
    assert [place for pack in packs for place in pack] == list(range(11))


# ---- adapters ---------------------------------------------------------------------------------


def test_a_pack_holds_no_more_adapters_than_have_room() -> None:
    loads = [{"ink": 4}, {"oil": 5}, {"wash": 1}, {"pen": 9}, {}]
    assert compose([1] * 5, together=True, loads=loads, room=9) == [[0, 1], [2], [3, 4]]
    assert compose([1] * 5, together=True, loads=loads, room=10) == [[0, 1, 2], [3, 4]]
    assert compose([1] * 5, together=True, loads=loads, room=19) == [[0, 1, 2, 3, 4]]


def test_an_adapter_that_several_use_counts_once() -> None:
    loads = [{"ink": 4}, {"ink": 4, "oil": 5}, {"oil": 5}, {"ink": 4}]
    assert compose([1] * 4, together=True, loads=loads, room=9) == [[0, 1, 2, 3]]


def test_the_next_pack_begins_empty() -> None:
    loads = [{"ink": 6}, {"oil": 6}, {"ink": 6}, {"ink": 6}]
    assert compose([1] * 4, together=True, loads=loads, room=10) == [[0], [1], [2, 3]]


def test_a_picture_that_needs_more_than_the_room_rides_with_none_that_needs_any() -> None:
    loads = [{"ink": 20}, {"ink": 20}, {}, {"oil": 3}, {}]
    packs = compose([1] * 5, together=True, loads=loads, room=10)
    assert packs == [[0], [1], [2, 3, 4]]


def test_pictures_without_adapters_need_no_room() -> None:
    assert compose([1, 2, 3], together=True, loads=[{}, {}, {}], room=0) == [[0, 1, 2]]


def test_patches_count_beside_the_room() -> None:
    loads = [{"ink": 1}] * 3
    half = MAX_PATCHES // 2
    assert compose([half] * 3, together=True, loads=loads, room=9) == [[0, 1], [2]]
    assert compose([1] * 3, together=False, loads=loads, room=9) == [[0], [1], [2]]
