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
