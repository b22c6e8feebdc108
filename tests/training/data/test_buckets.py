"""Sizes: within the area, near the picture's shape, never larger than it."""

import random

import pytest

from danqing.errors import DataError
from danqing.training.data.buckets import Buckets, cropped, tally

MEGAPIXEL = Buckets(1024 * 1024)


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((1024, 1024), (1024, 1024)),
        ((4000, 4000), (1024, 1024)),
        ((6000, 4000), (1248, 832)),
        ((4000, 6000), (832, 1248)),
        ((1920, 1080), (1360, 768)),
        ((1040, 1000), (1040, 992)),  # as large as itself: nothing is enlarged
        ((640, 480), (640, 480)),
        ((647, 495), (640, 480)),
        ((16, 16), (16, 16)),
        ((40, 17), (32, 16)),
        ((20_000, 500), (1984, 496)),  # no longer than four times the other side
    ],
)
def test_some_sizes(picture: tuple[int, int], size: tuple[int, int]) -> None:
    assert MEGAPIXEL.size(picture) == size


def test_small_areas() -> None:
    tall = [(32, 96), (32, 112), (32, 128), (48, 80)]
    assert Buckets(64 * 64).sizes == [*tall, (64, 64), (80, 48), (96, 32), (112, 32), (128, 32)]
    assert (128, 32) in Buckets(20 * 16**2).sizes
    assert Buckets(64 * 64).size((900, 600)) == (80, 48)
    assert Buckets(16 * 16).size((900, 600)) == (16, 16)


def test_the_unit() -> None:
    assert Buckets(64 * 64, unit=32).size((900, 600)) == (64, 64)
    assert Buckets(1024 * 1024, unit=32).size((640, 500)) == (640, 480)


def test_enlarging_on_request() -> None:
    assert Buckets(64 * 64, upscale=True).size((20, 20)) == (64, 64)
    assert Buckets(64 * 64, upscale=True).size((5, 20)) == (32, 128)
    assert Buckets(64 * 64, upscale=True).size((900, 600)) == Buckets(64 * 64).size((900, 600))


def test_what_holds_for_every_picture() -> None:
    rng = random.Random(0)
    for _ in range(200):
        unit, side = rng.choice([8, 16, 32]), rng.randint(40, 1500)
        buckets = Buckets(side * side, unit)
        picture = (rng.randint(unit, 3000), rng.randint(unit, 3000))
        width, height = size = buckets.size(picture)
        assert width % unit == height % unit == 0
        assert min(size) > 0
        assert width <= picture[0]
        assert height <= picture[1]
        assert width * height <= buckets.area
        within = [s for s in buckets.sizes if s[0] <= picture[0] and s[1] <= picture[1]]
        if within:
            assert cropped(picture, size) == min(cropped(picture, s) for s in within)


@pytest.mark.parametrize("buckets", [MEGAPIXEL, Buckets(300 * 200), Buckets(640 * 480, 32)])
def test_the_area_is_made_use_of_in_every_shape(buckets: Buckets) -> None:
    unit = buckets.unit
    for width, height in buckets.sizes:
        assert (width + unit) * height > buckets.area or width * (height + unit) > buckets.area
        assert max(width, height) <= 4 * min(width, height)
    assert {(height, width) for width, height in buckets.sizes} == set(buckets.sizes)
    widths = sorted({width for width, _ in buckets.sizes})
    assert widths == list(range(widths[0], widths[-1] + 1, unit))  # a shape for every width


def test_of_equal_crops_the_largest_then_the_widest() -> None:
    assert Buckets(48 * 80).size((100, 100)) == (64, 48)  # 48x64 crops as much
    assert Buckets()._nearest([(32, 32), (64, 64), (48, 48)], (100, 100)) == (64, 64)


def test_the_share_that_is_cropped() -> None:
    assert cropped((200, 100), (64, 64)) == 0.5
    assert cropped((100, 200), (64, 64)) == 0.5
    assert cropped((100, 75), (64, 48)) == 0


def test_pictures_that_are_too_small() -> None:
    with pytest.raises(DataError, match="is 100x15, the shorter side must be at least 16 pixels"):
        MEGAPIXEL.size((100, 15))
    with pytest.raises(DataError, match="at least 32 pixels"):
        Buckets(unit=32).size((31, 100))


def test_an_area_that_is_too_small() -> None:
    with pytest.raises(DataError, match="255 pixels are less than 16x16"):
        Buckets(255)


def test_the_list_for_printing() -> None:
    sizes = [(64, 64), (80, 48), (64, 64), (48, 80)]
    assert tally(sizes) == [((64, 64), 2), ((48, 80), 1), ((80, 48), 1)]
    assert tally([]) == []
