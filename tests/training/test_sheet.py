"""Contact sheets: every picture whole, and labels that are told apart."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danqing.errors import OutputError
from danqing.training import sheet
from danqing.training.sheet import contact_sheet
from tests.training.pictures import photo

RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def plain(size: tuple[int, int], colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", size, colour)


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def area(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == colour).all(axis=2).sum())


def encoded(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def test_small_pictures_are_enlarged_and_keep_every_pixel() -> None:
    image = noise((64, 48))
    found = contact_sheet([[image]])
    box = (sheet.MARGIN, sheet.MARGIN, sheet.MARGIN + 256, sheet.MARGIN + 192)
    enlarged = np.asarray(found.crop(box))
    assert np.array_equal(enlarged, np.asarray(image).repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (256, 256)),
        ((100, 60), (200, 120)),
        ((192, 128), (192, 128)),
        ((300, 200), (300, 200)),
        ((1328, 664), (512, 256)),
        ((1, 1), (256, 256)),
        ((4000, 1), (512, 1)),
    ],
)
def test_pictures_are_shown_at_a_size_to_look_at(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert sheet.fitted(plain(size, RED), 512).size == expected


def test_pictures_of_different_sizes_do_not_overlap() -> None:
    rows = [
        [plain((64, 64), RED), plain((64, 32), GREEN), plain((16, 64), BLUE)],
        [plain((32, 64), GREEN)],
        [],
    ]
    labels = ["a very long label " * 20, "b", "c"]
    for found in (
        contact_sheet(rows),
        contact_sheet(rows, labels, ["x" * 300, "y y " * 90, "z"], "title " * 99),
    ):
        assert area(found, RED) == 256 * 256
        assert area(found, GREEN) == 256 * 128 * 2
        assert area(found, BLUE) == 64 * 256


def test_labels_stand_beside_their_rows_and_above_their_columns() -> None:
    rows = [[plain((64, 64), RED)] * 2] * 2
    bare = contact_sheet(rows)
    labelled = contact_sheet(rows, ["one", "two"], ["left", "right"], "title")
    assert set(bare.get_flattened_data()) == {RED, (255, 255, 255)}
    assert labelled.width > bare.width
    left, top = labelled.width - bare.width, labelled.height - bare.height
    dark = np.asarray(labelled.convert("L")) < 60
    red = (np.asarray(labelled) == RED).all(axis=2)
    ink = dark & ~red
    assert not ink[top + sheet.MARGIN :, left + sheet.MARGIN :].any()
    first, second = ink[top : top + 262, :left], ink[top + 262 :, :left]
    assert first.any()
    assert second.any()
    assert ink[:top].any()


def test_labels_that_can_be_drawn_stay_as_they_are() -> None:
    assert sheet.told_apart(["a red fox,\n in snow", "seed 7"]) == ["a red fox, in snow", "seed 7"]


def test_labels_without_letters_are_numbered() -> None:
    labels = ["一只红色的狐狸", "两只 狐狸", "a fox, 狐狸, here", "plain"]
    assert sheet.told_apart(labels) == ["#1 …", "#2 …", "#3 a fox, …, here", "#4 plain"]


def test_labels_that_may_be_cut_are_numbered() -> None:
    labels = ["a" * 100 + "b", "a" * 100 + "c"]
    assert [label[:3] for label in sheet.told_apart(labels)] == ["#1 ", "#2 "]


def test_a_label_that_is_higher_than_its_pictures_has_room() -> None:
    found = contact_sheet([[plain((256, 8), RED)]] * 2, ["many words " * 50] * 2)
    label = sheet.height_of(["line"] * sheet.LINES, sheet.LABEL)
    assert found.height == 2 * label + sheet.GAP + 2 * sheet.MARGIN


def test_sheets_with_chinese_labels_differ_by_row() -> None:
    found = contact_sheet([[plain((64, 64), RED)]] * 2, ["狐狸", "雪"], ["种子"], "样张")
    top = found.height - 2 * 256 - sheet.GAP - sheet.MARGIN
    side = np.asarray(found)[:, :40]
    assert not np.array_equal(side[top : top + 40], side[top + 262 : top + 302])


@pytest.mark.parametrize("label", ["", " ", "\x00", "a\udcffb", "e\u0301", "🦊" * 500, "\u202eabc"])
def test_any_label_is_drawn(label: str) -> None:
    found = contact_sheet([[plain((64, 64), RED)]], [label], [label], label)
    assert area(found, RED) == 256 * 256


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_any_kind_of_picture_is_drawn(mode: str) -> None:
    assert area(contact_sheet([[plain((8, 8), RED).convert(mode)]]), (255, 255, 255)) > 0


def test_no_pictures_give_a_sheet_with_its_title() -> None:
    assert contact_sheet([], title="none").width > 0


def test_wrapped_lines_fit_and_lose_nothing() -> None:
    text = "a prompt of several words and averyverylongwordthatfitsnowhere"
    found = sheet.wrapped(text, sheet.LABEL, 120)
    assert all(sheet.font_of(sheet.LABEL).getlength(line) <= 120 for line in found)
    assert "".join(found).replace(" ", "") == text.replace(" ", "")


# ---- files ------------------------------------------------------------------------------------


def test_what_is_written_is_the_sheet(tmp_path: Path) -> None:
    found = sheet.write(tmp_path / "1.png", [[photo()]], ["fox"], ["seed 0"], "step 1")
    assert encoded(contact_sheet([[photo()]], ["fox"], ["seed 0"], "step 1")) == encoded(found)
    assert (tmp_path / "1.png").read_bytes() == encoded(found)
    assert [path.name for path in tmp_path.iterdir()] == ["1.png"]


def test_large_pictures_are_made_smaller_until_the_file_is(tmp_path: Path) -> None:
    rows = [[noise((512, 512), seed) for seed in range(3)]]
    assert len(encoded(contact_sheet(rows))) > sheet.LIMIT
    found = sheet.write(tmp_path / "1.png", rows)
    assert sheet.LIMIT / 4 < (tmp_path / "1.png").stat().st_size <= sheet.LIMIT
    assert found.height == 256 + 2 * sheet.MARGIN


def test_a_sheet_that_cannot_be_small_is_written_all_the_same(tmp_path: Path) -> None:
    sheet.write(tmp_path / "1.png", [[noise((192, 192), seed) for seed in range(12)]])
    assert (tmp_path / "1.png").stat().st_size > sheet.LIMIT


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="create that folder"):
        sheet.write(tmp_path / "none" / "1.png", [[photo()]])
