"""Records at their sizes, and what a step reads of them."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from danqing.errors import DataError
from danqing.training.data.buckets import Buckets
from danqing.training.data.framing import frame
from danqing.training.data.pictures import Picture, plan
from tests.training.pictures import photo, record, save, write


def test_each_record_gets_its_size(tmp_path: Path) -> None:
    wide = record(save(tmp_path / "a.png", photo((90, 60))))
    tall = record(save(tmp_path / "b.jpg", photo((60, 90))))
    assert plan([wide, tall], Buckets(64 * 64)) == [
        Picture(wide, (80, 48)),
        Picture(tall, (48, 80)),
    ]


def test_an_error_names_the_record(tmp_path: Path) -> None:
    small = record(save(tmp_path / "a.png", photo((90, 10))))
    with pytest.raises(DataError, match=r"^a.png: is 90x10"):
        plan([small], Buckets())
    with pytest.raises(DataError, match=r"^b.png: is no picture"):
        Picture(record(write(tmp_path / "b.png", "x")), (16, 16)).image()


def test_the_picture_is_framed_over_the_background(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", photo((90, 60)))
    found = Picture(record(path), (80, 48)).image()
    assert found.tobytes() == frame(photo((90, 60)), (80, 48)).tobytes()
    clear = save(tmp_path / "b.png", Image.new("RGBA", (32, 32)))
    assert Picture(record(clear), (16, 16)).image((1, 2, 3)).getcolors() == [(256, (1, 2, 3))]


def test_weights_where_there_is_a_mask(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", photo((64, 32)))
    assert Picture(record(path), (64, 32)).weights() is None
    black = save(tmp_path / "m.png", Image.new("L", (64, 32)))
    with pytest.raises(DataError, match=r"^a.png: the mask is all black"):
        Picture(record(path, mask=black), (64, 32)).weights()
    white = save(tmp_path / "m.png", Image.new("L", (64, 32), 255))
    found = Picture(record(path, mask=white), (64, 32)).weights(unit=32)
    assert found is not None
    assert torch.equal(found, torch.ones(2, 1))
