"""Everything that is wrong is found before a training begins, and told at once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danqing.errors import DataError
from danqing.models.tokenizer import PromptTokenizer
from danqing.training.data.buckets import Buckets
from danqing.training.data.check import check, faults_of
from danqing.training.data.faults import DataFaults
from danqing.training.data.records import Place, Record
from tests.training.pictures import hollow_png, photo, record, save, shard, write


def faults(*records: Record, **options: object) -> tuple[str, ...]:
    with pytest.raises(DataFaults) as caught:
        check(records, **options)  # type: ignore[arg-type]
    return caught.value.faults


def sound(path: Path) -> Record:
    return record(save(path))


def test_sound_records_pass(tmp_path: Path) -> None:
    white = save(tmp_path / "m.png", Image.new("L", (40, 32), 255))
    masked = record(save(tmp_path / "b.png"), "fox", "狐狸", mask=white)
    check([sound(tmp_path / "a.png"), masked])
    check([])


def test_all_faults_are_listed_in_the_order_of_the_records(tmp_path: Path) -> None:
    cut = save(tmp_path / "cut.png", photo((64, 64)))
    write(cut, cut.read_bytes()[:-500])
    records = [
        record(cut),
        sound(tmp_path / "good.png"),
        record(save(tmp_path / "tiny.png", photo((100, 15)))),
        record(write(tmp_path / "huge.png", hollow_png(20_000, 20_000))),
        record(write(tmp_path / "page.png", "<html>")),
        record(tmp_path / "gone.png"),
        Record("silent.png", Place(save(tmp_path / "silent.png")), ()),
    ]
    found = faults(*records)
    assert [fault.split(": ")[0] for fault in found] == [
        f"{name}.png" for name in ("cut", "tiny", "huge", "page", "gone", "silent")
    ]
    told = ["cannot be decoded", "is 100x15", "89478485 pixels", "no picture", "No such", "caption"]
    assert all(reason in fault for reason, fault in zip(told, found, strict=True))


def test_a_data_error_says_how_many(tmp_path: Path) -> None:
    records = [record(tmp_path / f"{n}.png") for n in range(3)]
    with pytest.raises(DataError, match=r"^the training data have 3 faults: 0.png: cannot read"):
        check(records)


def test_a_record_can_have_several_faults(tmp_path: Path) -> None:
    both = record(write(tmp_path / "a.png", "x"), "a [trigger]", "b [trigger]")
    assert len(faults(both)) == 3
    assert len(faults(both, trigger="sks")) == 1


def test_faults_can_be_watched(tmp_path: Path) -> None:
    good, bad = sound(tmp_path / "a.png"), record(tmp_path / "b.png")
    assert [len(found) for found in faults_of([good, bad, good])] == [0, 1, 0]


def test_a_damaged_member_of_a_shard(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {"a.png": "no picture", "b.png": "x"})
    place = Place(path, "a.png", 512, 10)
    assert faults(Record(f"{path}: a", place, ("fox",))) == (
        f"{path}: a: is no picture of a known format; replace it",
    )


# ---- masks ------------------------------------------------------------------------------------


def masked(folder: Path, mask: Image.Image) -> Record:
    return record(save(folder / "a.png", photo((96, 32))), mask=save(folder / "m.png", mask))


def test_masks(tmp_path: Path) -> None:
    (black,) = faults(masked(tmp_path, Image.new("L", (96, 32))))
    assert black == "a.png: its mask: the mask is all black; nothing of the picture would count"
    (other,) = faults(masked(tmp_path, Image.new("L", (32, 32), 255)))
    assert "the mask is 32x32, its picture 96x32" in other
    broken = record(save(tmp_path / "a.png"), mask=write(tmp_path / "m.png", "x"))
    assert faults(broken) == ("a.png: its mask: is no picture of a known format; replace it",)


def test_a_mask_is_judged_by_what_is_trained_on(tmp_path: Path) -> None:
    values = np.zeros((32, 96), np.uint8)
    values[:, :16] = 255
    edge = masked(tmp_path, Image.fromarray(values))
    check([edge])
    assert "all black" in faults(edge, buckets=Buckets(16 * 16))[0]


def test_a_mask_is_turned_with_its_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = save(tmp_path / "a.jpg", photo((96, 32)), exif=exif)
    upright = save(tmp_path / "m.png", Image.new("L", (32, 96), 255))
    check([record(image, mask=upright)])


# ---- captions ---------------------------------------------------------------------------------


def test_half_a_character(tmp_path: Path) -> None:
    bad = record(save(tmp_path / "a.png"), "fox \ud83e")
    assert faults(bad) == ("a.png: caption 'fox \\ud83e' holds half a character",)


def test_captions_that_are_too_long(tmp_path: Path, tiny_model: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(tiny_model / "tokenizer")
    long = record(save(tmp_path / "a.png"), "fox", "z" * 1500)
    check([long])
    (found,) = faults(long, tokenizer=tokenizer)
    assert found.startswith("a.png: caption has 1500 tokens, the limit is ")


def test_a_trigger_can_make_a_caption_too_long(tmp_path: Path, tiny_model: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(tiny_model / "tokenizer")
    one = record(save(tmp_path / "a.png"), "z" * 1010)
    check([one], tokenizer=tokenizer)
    assert len(faults(one, tokenizer=tokenizer, trigger="y" * 20)) == 1


def test_sizes_that_the_buckets_do_not_have(tmp_path: Path) -> None:
    small = record(save(tmp_path / "a.png", photo((100, 20))))
    check([small])
    assert "at least 32 pixels" in faults(small, buckets=Buckets(unit=32))[0]
    check([small], buckets=Buckets(unit=32, upscale=True))
    tiny = record(save(tmp_path / "b.png", photo((100, 15))))
    assert "at least 16 pixels" in faults(tiny, buckets=Buckets(unit=8, upscale=True))[0]
