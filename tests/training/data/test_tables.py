"""Metadata files: JSONL and CSV, their fields, and errors that name the line."""

from pathlib import Path
from typing import Any

import pytest

from danqing.training.data.findings import Fault, Finding, Note
from danqing.training.data.records import Place, Record, Source
from danqing.training.data.tables import read_table
from tests.training.pictures import jsonl, write


def read(path: Path) -> list[Finding]:
    return list(read_table(path, Source(path)))


def records(path: Path) -> list[Record]:
    found = read(path)
    assert all(isinstance(one, Record) for one in found), found
    return [one for one in found if isinstance(one, Record)]


def fault(path: Path) -> str:
    (found,) = [one.text for one in read(path) if isinstance(one, Fault)]
    return found


@pytest.mark.parametrize("image", ["file_name", "image", "image_path"])
@pytest.mark.parametrize("caption", ["caption", "text", "prompt"])
def test_every_name_of_the_fields(tmp_path: Path, image: str, caption: str) -> None:
    path = jsonl(tmp_path / "metadata.jsonl", {image: "a/b.png", caption: "一只狐狸"})
    wanted = Record(f"{path} line 1", Place(tmp_path / "a" / "b.png"), ("一只狐狸",))
    assert records(path) == [wanted]
    path = write(tmp_path / "metadata.csv", f"{image},{caption}\na/b.png,一只狐狸\n")
    assert records(path)[0].captions == ("一只狐狸",)
    assert records(path)[0].image == wanted.image


def test_all_fields_of_jsonl(tmp_path: Path) -> None:
    row = {"file_name": "a.png", "text": ["fox", "狐狸"], "mask": "m.png", "weight": 2}
    path = jsonl(tmp_path / "m.jsonl", {**row, "repeats": 3}, {"image": "b.png", "weight": None})
    first, second = records(path)
    wanted = (("fox", "狐狸"), 3, 2.0, Place(tmp_path / "m.png"))
    assert (first.captions, first.repeats, first.weight, first.mask) == wanted
    assert (second.captions, second.repeats, second.weight, second.mask) == ((), 1, 1.0, None)
    assert second.origin == f"{path} line 2"


def test_all_fields_of_csv(tmp_path: Path) -> None:
    content = (
        "\ufefffile_name,text,mask,weight,repeats\r\n"
        'a.png,"a fox, red\nand ""wild""",m.png,0.5,3\r\n'
        "\r\n"
        'b.png,"[""fox"", ""狐狸""]",,,\r\n'
        "c.png,[trigger] a fox,,2,\r\n"
    )
    first, second, third = records(write(tmp_path / "m.csv", content))
    assert first.captions == ('a fox, red\nand "wild"',)
    assert (first.repeats, first.weight, first.mask) == (3, 0.5, Place(tmp_path / "m.png"))
    assert (second.captions, second.repeats, second.mask) == (("fox", "狐狸"), 1, None)
    assert (third.captions, third.weight) == (("[trigger] a fox",), 2.0)
    assert third.origin.endswith("m.csv line 6")


def test_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", '\ufeff{"image": "a.png"}\r\n\n  \n{"image": "b.png"}')
    assert [one.origin for one in records(path)] == [f"{path} line 1", f"{path} line 4"]


def test_characters_that_part_lines_elsewhere(tmp_path: Path) -> None:
    (found,) = records(jsonl(tmp_path / "m.jsonl", {"image": "a.png", "text": "a\u2028b\x85c"}))
    assert found.captions == ("a\u2028b\x85c",)


def test_fields_without_effect_are_told_once(tmp_path: Path) -> None:
    rows: list[Any] = [{"image": "a.png", "width": 3}, {"image": "b.png", "score": 1, "width": 2}]
    path = jsonl(tmp_path / "m.jsonl", *rows)
    assert read(path)[2:] == [Note(f"{path}: the fields width, score have no effect")]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"image": "a.png"', "not JSON (Expecting"),
        ('{"image": "a.png", "weight": NaN}', "NaN is no JSON number"),
        ('{"image": "a.png", "image": "b.png"}', "a field stands twice"),
        ("[" * 100_000, "not JSON"),
        ('["a.png"]', "must be an object"),
        ("{}", "names no picture; give its path as file_name"),
        ('{"text": "fox"}', "names no picture"),
        ('{"image": 5}', "5 is no path"),
        ('{"image": ""}', "'' is no path"),
        ('{"image": "a\\u0000.png"}', "is no path"),
        ('{"image": "a.png", "file_name": "a.png"}', "has both file_name and image"),
        ('{"image": "a.png", "text": "a", "prompt": "b"}', "has both text and prompt"),
        ('{"image": "a.png", "text": 5}', "caption 5 must be a text or a list"),
        ('{"image": "a.png", "repeats": "2"}', "repeats '2' must be a whole number"),
        ('{"image": "a.png", "repeats": 0}', "repeats 0 must be a whole number"),
        ('{"image": "a.png", "weight": -1}', "weight -1 must be a number above 0"),
        ('{"image": "../a.png"}', "'../a.png' leaves the folder of m.jsonl"),
        ('{"image": "b/../../a.png"}', "leaves the folder"),
        ('{"image": "/etc/a.png"}', "leaves the folder"),
        ('{"image": "..\\\\a.png"}', "leaves the folder"),
        ('{"image": "C:a.png"}', "leaves the folder"),
        ('{"image": "\\\\a.png"}', "leaves the folder"),
        ('{"image": "\\\\\\\\host\\\\a.png"}', "leaves the folder"),
        ('{"image": "a.png", "mask": "../m.png"}', "'../m.png' leaves the folder"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = write(tmp_path / "m.jsonl", f'{{"image": "good.png"}}\n\n{line}\n')
    assert fault(path).startswith(f"{path} line 3: ")
    assert told in fault(path)
    assert isinstance(read(path)[0], Record)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("a.png,fox,2,3\n", "line 2: has 4 cells, the header has 3"),
        ("a.png\n", "line 2: has 1 cells"),
        (",fox,\n", "line 2: names no picture"),
        ("a.png,fox,two\n", "line 2: repeats 'two' must be a whole number"),
        ("a.png,fox,1.5\n", "line 2: repeats 1.5 must be"),
        ('a.png,"fox\n', "line 2: not CSV (unexpected end of data"),
        ("a.png,狐狸,\n".encode("gbk"), "line 2: invalid"),
        ("../a.png,fox,\n", "line 2: '../a.png' leaves the folder"),
        ('a.png,"[""fox"", 5]",\n', "line 2: caption 5 must be"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, rows: str | bytes, told: str) -> None:
    content = rows.encode() if isinstance(rows, str) else rows
    path = write(tmp_path / "m.csv", b"image,text,repeats\n" + content)
    assert told in fault(path)
    assert fault(path).startswith(str(path))


def test_a_wrong_header_is_told_once(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", "name,text\na.png,fox\nb.png,fox\n")
    assert fault(path) == f"{path}: the header name, text has no file_name"
    path = write(tmp_path / "m.csv", "image,image\na.png,a.png\n")
    assert fault(path) == f"{path}: the header image, image has a name twice"


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_file(tmp_path: Path, name: str, content: str) -> None:
    assert "names no picture" in fault(write(tmp_path / name, content))


def test_a_csv_of_nothing_but_a_header(tmp_path: Path) -> None:
    assert "names no picture" in fault(write(tmp_path / "m.csv", "image,text\n"))


def test_text_that_is_not_utf8_in_jsonl(tmp_path: Path) -> None:
    line = '{"image": "a.png", "text": "狐狸"}'.encode("gbk")
    path = write(tmp_path / "m.jsonl", b'{"image": "b.png"}\n' + line)
    assert fault(path).startswith(f"{path} line 2: ")
    assert "save the file as UTF-8" in fault(path)
