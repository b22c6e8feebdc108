"""Latents and text features on the disk: found by content, whole or computed anew."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from danqing.errors import DataError, OutputError
from danqing.training.cache import Cache, Stamp, sample
from danqing.training.data.pictures import Picture
from tests import tiny
from tests.training.pictures import photo, record, save, write

STAMP = Stamp("tiny", "v" * 16, "t" * 32)


def cache(folder: Path, stamp: Stamp = STAMP, **options: object) -> Cache:
    return Cache(folder, stamp, options.pop("dtype", torch.float32), **options)  # type: ignore[arg-type]


@pytest.fixture
def made(tmp_path: Path) -> Cache:
    return cache(tmp_path / "cache")


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    return Picture(record(save(tmp_path / "a.png")), (32, 32))


# ---- reading and writing ----------------------------------------------------------------------


def test_latents_are_read_as_they_were_kept(made: Cache, picture: Picture) -> None:
    key = made.latent_key(picture)
    mean, logvar = tiny.draw(16, 4, 4), tiny.draw(16, 4, 4, seed=1)
    assert not made.has_latent(key)
    made.keep_latent(key, mean, logvar)
    assert made.has_latent(key)
    found = made.latent(key)
    assert all(torch.equal(a, b) for a, b in zip(found, (mean, logvar), strict=True))
    path = made.folder / "latents" / key[:2] / f"{key}.safetensors"
    assert path.is_file()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_text_is_read_as_it_was_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    made = cache(tmp_path / "cache", dtype=dtype)
    features = tiny.draw(7, 64, dtype=dtype)
    key = made.text_key("一只狐狸")
    made.keep_text(key, features.t().contiguous().t())  # in whatever order of memory
    again = cache(tmp_path / "cache", dtype=dtype)
    assert again.has_text(key)
    assert again.text(key).dtype == dtype
    assert torch.equal(again.text(key), features)
    assert (made.folder / "text" / key[:2] / f"{key}.safetensors").is_file()


def test_reading_does_not_hold_on_to_the_file(made: Cache) -> None:
    key = made.text_key("fox")
    made.keep_text(key, torch.ones(2, 64))
    first = made.text(key)
    made.keep_text(key, torch.zeros(2, 64))
    assert torch.equal(first, torch.ones(2, 64))
    assert torch.equal(made.text(key), torch.zeros(2, 64))


def test_what_is_not_there(made: Cache) -> None:
    with pytest.raises(DataError, match=r"the cache lacks .*abc.safetensors; fill it again"):
        made.latent("abc")
    with pytest.raises(DataError, match="the cache lacks"):
        made.text("abc")


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        made = cache(tmp_path / name)
        made.keep_latent("abc", tiny.draw(16, 4, 4), tiny.draw(16, 4, 4, seed=1))
        contents.append((made.folder / "latents" / "ab" / "abc.safetensors").read_bytes())
    assert contents[0] == contents[1]


# ---- keys -------------------------------------------------------------------------------------


def test_a_picture_in_two_places_has_one_key(made: Cache, picture: Picture, tmp_path: Path) -> None:
    copy = Path(shutil.copy(tmp_path / "a.png", tmp_path / "b.png"))
    other = Picture(record(copy, "another caption"), (32, 32))
    assert made.latent_key(other) == made.latent_key(picture)
    assert len(made.latent_key(picture)) == 64


Change = Callable[[Path], Cache]
CHANGES: dict[str, Change] = {
    "unit": lambda folder: cache(folder, unit=32),
    "background": lambda folder: cache(folder, background=(0, 0, 0)),
    "vae": lambda folder: cache(folder, Stamp("tiny", "w" * 16, "t" * 32)),
    "dtype": lambda folder: cache(folder, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_setting_is_in_the_key_of_a_latent(
    made: Cache, picture: Picture, tmp_path: Path, change: str
) -> None:
    other = CHANGES[change](tmp_path / "other")
    assert other.latent_key(picture) != made.latent_key(picture)


def test_the_size_and_the_content_are_in_the_key(
    made: Cache, picture: Picture, tmp_path: Path
) -> None:
    size = Picture(picture.record, (32, 16))
    content = Picture(record(save(tmp_path / "b.png", photo(seed=1))), (32, 32))
    keys = {made.latent_key(one) for one in (picture, size, content)}
    assert len(keys) == 3


def test_the_format_is_in_both_keys(
    made: Cache, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made.latent_key(picture), made.text_key("fox")
    monkeypatch.setattr("danqing.training.cache.FORMAT", 2)
    assert made.latent_key(picture) != before[0]
    assert made.text_key("fox") != before[1]


def test_keys_of_texts(made: Cache, tmp_path: Path) -> None:
    others = [
        cache(tmp_path / "a", Stamp("tiny", "v" * 16, "u" * 32)),
        cache(tmp_path / "b", dtype=torch.bfloat16),
    ]
    keys = {one.text_key("fox") for one in (made, *others)} | {made.text_key("Fox")}
    assert len(keys) == 4
    same = cache(tmp_path / "c", Stamp("x", "w" * 16, "t" * 32), background=(0, 0, 0))
    assert same.text_key("fox") == made.text_key("fox")


def test_a_picture_that_cannot_be_read_is_named(made: Cache, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^b.png: cannot read .*No such file"):
        made.latent_key(Picture(record(tmp_path / "b.png"), (16, 16)))


# ---- damage -----------------------------------------------------------------------------------


def damage_by_cut(path: Path) -> None:
    write(path, path.read_bytes()[:-8])


def damage_by_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    write(path, bytes(content))


def damage_by_emptying(path: Path) -> None:
    write(path, b"")


def damage_by_kind(path: Path) -> None:
    write(path, path.read_bytes().replace(b'"F32"', b'"I32"'))


def damage_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [damage_by_cut, damage_by_bit, damage_by_emptying, damage_by_kind, damage_by_folder]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_noticed(made: Cache, damage: Callable[[Path], None]) -> None:
    key = made.text_key("fox")
    made.keep_text(key, tiny.draw(3, 64))
    path = made.folder / "text" / key[:2] / f"{key}.safetensors"
    damage(path)
    with pytest.warns(UserWarning, match=rf"{key}.safetensors is damaged \(.*computed anew"):
        assert not made.has_text(key)
    with pytest.raises(DataError, match="is damaged"):
        made.text(key)


def test_a_file_under_another_name_is_noticed(made: Cache) -> None:
    one, other = made.text_key("fox"), made.text_key("dog")
    made.keep_text(one, tiny.draw(3, 64))
    path = made.folder / "text" / one[:2] / f"{one}.safetensors"
    foreign = made.folder / "text" / other[:2] / f"{other}.safetensors"
    foreign.parent.mkdir(exist_ok=True)
    shutil.copy(path, foreign)
    with pytest.raises(DataError, match=r"is damaged \(its checksum differs\)"):
        made.text(other)


# ---- whose it is ------------------------------------------------------------------------------


def test_a_cache_is_opened_again(tmp_path: Path) -> None:
    made = cache(tmp_path / "new" / "cache")
    mark = json.loads((made.folder / "cache.json").read_text())
    assert mark == {"model": "tiny", "vae": "v" * 16, "text": "t" * 32, "format": 1}
    cache(made.folder)
    cache(made.folder, Stamp("a copy of tiny", STAMP.vae, STAMP.text), dtype=torch.bfloat16)
    assert json.loads((made.folder / "cache.json").read_text()) == mark


@pytest.mark.parametrize(
    ("stamp", "part"),
    [
        (Stamp("other", "w" * 16, STAMP.text), "vae"),
        (Stamp("other", STAMP.vae, "u" * 32), "text"),
        (Stamp("other", STAMP.vae, STAMP.text, 2), "format"),
    ],
)
def test_a_cache_of_another_model_is_refused(tmp_path: Path, stamp: Stamp, part: str) -> None:
    folder = cache(tmp_path / "cache").folder
    told = rf"cache belongs to tiny, not to other \({part} .*; choose another folder .* or delete"
    with pytest.raises(DataError, match=told):
        cache(folder, stamp)


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "photos" / "a.png")
    with pytest.raises(DataError, match=r"photos is not empty and no cache; choose another"):
        cache(tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.png"]


def test_an_empty_folder_becomes_a_cache(tmp_path: Path) -> None:
    write(tmp_path / "cache" / ".danqing-1-ab.tmp", "")  # another process is about to write
    assert cache(tmp_path / "cache").folder == tmp_path / "cache"


@pytest.mark.parametrize("model", ["tiny", "other"])
def test_a_mark_that_is_made_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    theirs = Stamp(model, STAMP.vae if model == "tiny" else "w" * 16, STAMP.text)
    exists = Path.exists

    def late(path: Path) -> bool:
        """The other process makes its mark just after we looked for one."""
        found = exists(path)
        if path.name == "cache.json" and not found:
            write(path, json.dumps(asdict(theirs)))
        return found

    monkeypatch.setattr(Path, "exists", late)
    if model == "tiny":
        assert cache(tmp_path / "cache").folder.is_dir()
    else:
        with pytest.raises(DataError, match="belongs to other"):
            cache(tmp_path / "cache")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model": "x", "size": 5}', b"\xff"])
def test_a_broken_mark(tmp_path: Path, content: str | bytes) -> None:
    write(tmp_path / "cache" / "cache.json", content)
    with pytest.raises(DataError, match=r"cannot read .*cache.json .*; delete the cache's folder"):
        cache(tmp_path / "cache")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    write(tmp_path / "file", "x")
    with pytest.raises(OutputError, match="cannot write"):
        cache(tmp_path / "file" / "cache")


def test_a_stamp_follows_the_encoders_alone(tiny_copy: Path) -> None:
    before = Stamp.of("tiny", tiny_copy)
    tiny.change(tiny_copy / "transformer" / "config.json", note=1)
    assert Stamp.of("tiny", tiny_copy) == before
    tiny.change(tiny_copy / "vae" / "config.json", note=1)
    after = Stamp.of("tiny", tiny_copy)
    assert (after.vae != before.vae, after.text == before.text) == (True, True)
    for part, file in (("tokenizer", "vocab.json"), ("text_encoder", "config.json")):
        tiny.change(tiny_copy / part / file, note=1)
        assert Stamp.of("tiny", tiny_copy).text != after.text
        after = Stamp.of("tiny", tiny_copy)


# ---- sampling ---------------------------------------------------------------------------------


def test_a_sample_has_the_posterior_mean_and_spread() -> None:
    mean, logvar = torch.full((1000, 1), 2.0), torch.full((1000, 1), 0.5).log() * 2
    found: Tensor = sample(mean, logvar, tiny.draw(1000, 1))
    assert float(found.mean()) == pytest.approx(2, abs=0.1)
    assert float(found.std()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(sample(mean, logvar, torch.zeros(1000, 1)), mean)
