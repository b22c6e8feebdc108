"""WebDataset shards: keys, captions, and bytes that are read where they lie."""

import tarfile
from pathlib import Path

import pytest

from danqing.training.data.findings import Fault, Finding, Note
from danqing.training.data.records import Record, Source
from danqing.training.data.shards import read_shard
from tests.training.pictures import encoded, photo, shard, write

PNG = encoded()


def read(path: Path) -> list[Finding]:
    return list(read_shard(path, Source(path, repeats=2, weight=3.0)))


def faults(path: Path) -> list[str]:
    return [found.text for found in read(path) if isinstance(found, Fault)]


def test_records_in_the_order_of_their_keys(tmp_path: Path) -> None:
    other = encoded(photo(seed=1), "JPEG")
    members = {
        "b.jpg": other,
        "b.txt": "a dog",
        "a.json": {"caption": "狐狸", "weight": 2, "repeats": 3, "url": "x", "width": 5},
        "sub/c.webp": encoded(form="WEBP"),
        "sub/c.txt": "a\nb\n",
        "a.png": PNG,
        "a.txt": "fox",
        "a.mask.png": encoded(photo(seed=2)),
        "a.cls": "7",
    }
    path = shard(tmp_path / "s-000.tar", members)
    a, b, c = read(path)
    assert isinstance(a, Record)
    assert isinstance(b, Record)
    assert isinstance(c, Record)
    assert [one.origin for one in (a, b, c)] == [f"{path}: {key}" for key in ("a", "b", "sub/c")]
    assert (a.captions, a.repeats, a.weight) == (("fox", "狐狸"), 6, 6.0)
    assert (b.captions, b.repeats, b.weight, b.mask) == (("a dog",), 2, 3.0, None)
    assert c.captions == ("a", "b")
    assert a.image.read() == PNG
    assert b.image.read() == other
    assert a.mask is not None
    assert a.mask.read() == members["a.mask.png"]


def test_a_caption_given_twice_counts_once(tmp_path: Path) -> None:
    members = {"a.png": PNG, "a.txt": "fox", "a.json": {"caption": "fox", "text": ["fox", "b"]}}
    (found,) = read(shard(tmp_path / "s.tar", members))
    assert isinstance(found, Record)
    assert found.captions == ("fox", "b")


def test_keys_end_at_the_first_dot_and_suffixes_may_be_large(tmp_path: Path) -> None:
    (found,) = read(shard(tmp_path / "s.tar", {"./d.1/a.JPG": PNG, "./d.1/a.TXT": "fox"}))
    assert isinstance(found, Record)
    assert (found.origin, found.captions) == (f"{tmp_path / 's.tar'}: d.1/a", ("fox",))


def test_hidden_members_links_and_folders_are_passed_over(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {"a.png": PNG, "._b.png": b"x", ".c/d.png": b"x"})
    with tarfile.open(path, "a") as tar:
        for name, kind in (("e.png", tarfile.SYMTYPE), ("f.png", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert [type(found) for found in read(path)] == [Record]


def test_text_without_a_picture_is_told(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {"a.png": PNG, "b.txt": "fox", "c.cls": "1"})
    assert read(path)[1:] == [Note(f"{path}: b has no picture and is left aside")]


def test_faults_name_the_shard_and_the_key(tmp_path: Path) -> None:
    members = {
        "a.png": PNG,
        "a.jpg": PNG,
        "b.png": PNG,
        "b.json": "{",
        "c.png": PNG,
        "c.txt": "狐狸".encode("gbk"),
        "d.png": PNG,
        "d.json": {"weight": -1},
        "e.png": PNG,
    }
    path = shard(tmp_path / "s.tar", members)
    told = [fault.removeprefix(f"{path}: ") for fault in faults(path)]
    assert told[0] == "a: has the pictures .png and .jpg; leave one of them"
    assert [fault[:11] for fault in told[1:]] == ["b: not JSON", "c: line 1: ", "d: weight -"]
    assert len(read(path)) == 5


def test_a_member_that_stands_twice(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {"a.png": PNG, "./a.png": PNG})
    assert faults(path) == [f"{path}: ./a.png stands twice in the shard; pack it anew"]


@pytest.mark.parametrize("cut", [0, 100, 700, 1500])
def test_a_shard_that_is_cut(tmp_path: Path, cut: int) -> None:
    whole = shard(tmp_path / "s.tar", {"a.png": PNG + bytes(2000), "a.txt": "fox"}).read_bytes()
    path = write(tmp_path / "s.tar", whole[:cut])
    assert len(faults(path)) == 1
    assert faults(path)[0].startswith(f"{path}: is truncated or no tar file")


def test_what_is_no_tar(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tar", PNG * 20)
    assert faults(path)[0].startswith(f"{path}: is truncated or no tar file")
    path = shard(tmp_path / "s.tar", {"a.txt": "fox"})
    assert "holds no picture" in faults(path)[0]
