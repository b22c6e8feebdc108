"""Bytes of a file or of a part of a shard, read again."""

from pathlib import Path

import pytest

from danqing.errors import DataError
from danqing.training.data.records import Place
from tests.training.pictures import write


def test_a_file_and_a_part_of_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", b"0123456789")
    assert Place(path).read() == b"0123456789"
    assert Place(path, "key.png", 3, 4).read() == b"3456"
    with Place(path, "key.png", 3, 4).open() as file:
        assert file.read(2) == b"34"


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*b.png \(No such file or directory\)"):
        Place(tmp_path / "b.png").read()
    with pytest.raises(DataError, match="is no plain file"):
        Place(tmp_path).read()


def test_a_shard_that_was_cut_meanwhile(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", b"0123456789")
    with pytest.raises(DataError, match=r"a.tar ends within key.png; fetch the shard again"):
        Place(path, "key.png", 8, 4).read()
