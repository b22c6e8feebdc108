"""A folder of pictures with captions beside them."""

from pathlib import Path

import pytest

from danqing.training.data.findings import Fault, Finding, Note
from danqing.training.data.folders import files_under, read_folder
from danqing.training.data.records import Place, Record, Source
from tests.training.pictures import save, write


def read(folder: Path, **options: object) -> list[Finding]:
    return list(read_folder(folder, Source(folder, **options)))  # type: ignore[arg-type]


def test_pictures_with_their_captions(tmp_path: Path) -> None:
    save(tmp_path / "b.png")
    write(tmp_path / "b.txt", "a red fox\n一只红色的狐狸\n")
    save(tmp_path / "sub" / "a.b.JPG")
    write(tmp_path / "sub" / "a.b.txt", "a dog")
    first, second = read(tmp_path, repeats=2, weight=0.5)
    image = tmp_path / "b.png"
    captions = ("a red fox", "一只红色的狐狸")
    assert first == Record(str(image), Place(image), captions, 2, 0.5)
    assert isinstance(second, Record)
    assert (second.image.path, second.captions) == (tmp_path / "sub" / "a.b.JPG", ("a dog",))


def test_the_origin_is_the_path_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("photos/a.png"))
    (found,) = read(Path("photos"), caption="fox")
    assert isinstance(found, Record)
    assert (found.origin, found.captions) == ("photos/a.png", ("fox",))


def test_a_mask_belongs_to_its_picture_and_is_none_itself(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    save(tmp_path / "a.mask.png")
    (found,) = read(tmp_path)
    assert isinstance(found, Record)
    assert found.mask == Place(tmp_path / "a.mask.png")


def test_hidden_and_unknown_files_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    for name in (".a.png", "._a.png", ".hidden/b.png", "a.json", "notes.md", "video.mp4", "a"):
        write(tmp_path / name, "x")
    assert [type(found) for found in read(tmp_path)] == [Record]


def test_a_text_or_a_mask_without_a_picture_is_told(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    write(tmp_path / "b.txt", "fox")
    save(tmp_path / "c.mask.png")
    notes = [found.text for found in read(tmp_path) if isinstance(found, Note)]
    assert [Path(note.split(" has no picture beside it")[0]).name for note in notes] == [
        "b.txt",
        "c.mask.png",
    ]


def test_two_captions_of_one_picture_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    write(tmp_path / "a.txt", "fox")
    write(tmp_path / "a.TXT", "wolf")
    faults = [found.text for found in read(tmp_path) if isinstance(found, Fault)]
    lower, upper = tmp_path / "a.txt", tmp_path / "a.TXT"
    assert faults == [f"{upper} and {lower} belong to one picture; leave one of them out"]


def test_captions_that_cannot_be_read(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    write(tmp_path / "a.txt", "狐狸".encode("gbk"))
    (found,) = read(tmp_path)
    assert isinstance(found, Fault)
    assert found.text.startswith(f"{tmp_path / 'a.txt'}: line 1: ")


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "fox")
    fault, note = read(tmp_path)
    assert isinstance(fault, Fault)
    assert "holds no picture; a picture ends in .avif, " in fault.text
    assert isinstance(note, Note)


def test_the_order_is_that_of_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["b.png", "a/c.png", "a.png", "a-b/d.png", "é.png", "狐.png"]
    for name in names:
        write(tmp_path / name, "")
    found = [path.relative_to(tmp_path).as_posix() for path in files_under(tmp_path)]
    assert found == ["a/c.png", "a-b/d.png", "a.png", "b.png", "é.png", "狐.png"]
    real = __import__("os").walk

    def backwards(top: Path, onerror: object) -> object:
        for parent, folders, files in real(top):
            folders.reverse()
            yield parent, folders, files[::-1]

    monkeypatch.setattr("danqing.training.data.folders.os.walk", backwards)
    assert [path.relative_to(tmp_path).as_posix() for path in files_under(tmp_path)] == found
