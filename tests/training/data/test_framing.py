"""Scaling and cropping."""

import numpy as np
import pytest
from PIL import Image

from danqing.training.data.framing import centre, frame
from tests.training.pictures import photo


def test_a_picture_of_the_right_size_stays_as_it_is() -> None:
    image = photo((64, 48))
    assert frame(image, (64, 48)).tobytes() == image.tobytes()


def test_the_middle_is_kept() -> None:
    image = Image.new("RGB", (96, 32), (255, 0, 0))
    image.paste((0, 0, 255), (32, 0, 64, 32))
    assert frame(image, (32, 32)).getcolors() == [(32 * 32, (0, 0, 255))]
    assert frame(image.rotate(90, expand=True), (32, 32)).getcolors() == [(1024, (0, 0, 255))]


@pytest.mark.parametrize(
    ("picture", "size", "box"),
    [
        ((100, 50), (50, 50), (25, 0, 75, 50)),
        ((50, 100), (50, 50), (0, 25, 50, 75)),
        ((100, 50), (64, 32), (0, 0, 100, 50)),
        ((101, 50), (48, 48), (25.5, 0, 75.5, 50)),
        ((30, 30), (64, 32), (0, 7.5, 30, 22.5)),
    ],
)
def test_the_part_that_is_kept(
    picture: tuple[int, int], size: tuple[int, int], box: tuple[float, ...]
) -> None:
    assert centre(picture, size) == box


def test_the_part_lies_within_every_picture() -> None:
    rng = np.random.default_rng(0)
    for width, height, across, down in rng.integers(1, 5000, (2000, 4)).tolist():
        left, top, right, bottom = centre((width, height), (across, down))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_scaling_down_does_not_alias() -> None:
    stripes = np.zeros((64, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    found = np.asarray(frame(Image.fromarray(stripes), (32, 16))).astype(int)
    assert np.abs(found[:, 4:-4] - 127.5).max() <= 8  # grey, not stripes
