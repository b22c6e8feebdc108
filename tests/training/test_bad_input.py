"""Every kind of bad input, through a whole training: refused in one line that says what to do,
before any work, and with nothing left behind."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.ExifTags import Base
from safetensors import safe_open

from danqing.adapters import formats
from danqing.errors import DataError, OutputError, TrainingError
from danqing.training import checkpoint, prepare
from danqing.training.data.faults import DataFaults
from danqing.training.loop import Saved, Stepped
from danqing.training.run import Finished, Found, Resumed
from danqing.training.settings import Settings
from tests import tiny
from tests.training import small
from tests.training.pictures import hollow_png, jsonl, photo, save, shard, write
from tests.training.whole import (
    CPU,
    changed,
    drafts,
    files,
    killed_after,
    of,
    photos,
    refusal,
    settings,
    skip_simulation,
    stopped,
    told,
)


@pytest.fixture
def own(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A training that would go well; each test spoils it."""
    skip_simulation(monkeypatch)
    photos(tmp_path / "photos")
    return settings(tmp_path, tiny_model, cache=str(tmp_path / "cache"))


def no_model(*_: object) -> None:
    raise AssertionError("a model was built before the data were known to be sound")


# ---- pictures and captions --------------------------------------------------------------------


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    write(folder / "notes.md", "no picture")


def cut(folder: Path) -> None:
    path = save(folder / "1.png", photo((64, 64)))
    write(path, path.read_bytes()[:-900])


def link(folder: Path) -> None:
    (folder / "1.png").unlink()
    (folder / "1.png").symlink_to("gone.png")


PICTURES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "empty": (empty, "photos: holds no picture", "a picture ends in .avif"),
    "gone": (shutil.rmtree, "photos: is not there", "check the name"),
    "silent": (lambda f: (f / "1.txt").unlink(), "1.png: has no caption", "write one beside it"),
    "blank": (lambda f: write(f / "1.txt", " \n"), "1.png: has no caption", "write one beside it"),
    "gbk": (lambda f: write(f / "1.txt", "狐".encode("gbk")), "1.txt: line 1: ", "as UTF-8"),
    "long": (lambda f: write(f / "1.txt", "z" * 5000), "5000 tokens, the limit is", "shorten it"),
    "cut": (cut, "1.png: cannot be decoded", "replace it"),
    "page": (lambda f: write(f / "1.png", "<html>"), "1.png: is no picture", "replace it"),
    "void": (lambda f: write(f / "1.png", ""), "1.png: is no picture", "replace it"),
    "link": (link, "1.png: cannot read", "check the name"),
    "dot": (
        lambda f: save(f / "1.png", photo((1, 1))),
        "1.png: is 1x1, the shorter side must be",
        "at least 16 pixels",
    ),
    "bomb": (
        lambda f: write(f / "1.png", hollow_png(20_000, 20_000)),
        "1.png: has more than 89478485 pixels",
        "scale it down",
    ),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures_that_cannot_be_used(
    own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    spoil, what, remedy = PICTURES[case]
    spoil(tmp_path / "photos")
    before = files(tmp_path)
    monkeypatch.setattr("danqing.weights.model.build", no_model)
    message = refusal(own, DataError)
    assert what in message
    assert remedy in message
    assert str(tmp_path / "photos") in message
    assert files(tmp_path) == before


def test_too_many_pixels_are_told_with_their_number(own: Settings, tmp_path: Path) -> None:
    write(tmp_path / "photos" / "1.png", hollow_png(20_000, 20_001))
    assert "(400020000)" in refusal(own, DataError)


def test_all_broken_files_are_listed_before_any_work(
    own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tmp_path / "photos")
    write(tmp_path / "photos" / "2.png", "")
    (tmp_path / "photos" / "3.txt").unlink()
    rows = [{"file_name": "a.png", "text": "a"}, {"file_name": "../x.png", "text": "a"}, {}]
    jsonl(tmp_path / "table" / "metadata.jsonl", *rows)
    save(tmp_path / "table" / "a.png", photo((1, 1)))
    packed = shard(tmp_path / "s.tar", {"a.png": "no picture", "a.txt": "a", "b.png": "x"})
    monkeypatch.setattr("danqing.weights.model.build", no_model)
    before = files(tmp_path)
    sources = [*own.data, str(tmp_path / "table"), str(packed), str(tmp_path / "none")]
    with pytest.raises(DataFaults) as caught:
        told(changed(own, data=sources))
    places = ["1.png: ", "2.png: ", "3.png: ", "line 1: is 1x1", "line 2: '../x.png'", "line 3: "]
    for place in [*places, "s.tar: a: ", "s.tar: b: is no picture", "s.tar: b: has no", "none: "]:
        assert sum(place in fault for fault in caught.value.faults) == 1, place
    assert len(caught.value.faults) == 10
    assert not any("\n" in fault for fault in caught.value.faults)
    assert str(caught.value).startswith("the training data have 10 faults: ")
    assert files(tmp_path) == before


def test_every_kind_of_picture_is_learnt_from(own: Settings, tmp_path: Path) -> None:
    folder, exif = tmp_path / "photos", Image.Exif()
    exif[Base.Orientation] = 6
    shutil.rmtree(folder)
    save(folder / "turned.jpg", photo((64, 32)), exif=exif)
    save(folder / "clear.png", Image.new("RGBA", (32, 32), (255, 0, 0, 40)))
    save(folder / "print.jpg", photo((32, 32)).convert("CMYK"))
    save(folder / "deep.png", Image.new("I;16", (32, 32), 40_000))
    save(folder / "palette.gif", photo((32, 32)).quantize(8))
    events = told(changed(own, caption="a thing", size=[64, 64]))
    assert of(events, Found)[0].sizes == {"32x64": 1, "32x32": 4}
    assert of(events, Finished)[0].step == 4


# ---- metadata ---------------------------------------------------------------------------------

GOOD = '{"file_name": "0.png", "text": "a"}'
LINES = [
    ('{"file_name": "1.png", "text": "a"', "not JSON (Expecting"),
    ('["1.png"]', "must be an object"),
    ('{"text": "a"}', "names no picture; give its path as file_name"),
    ('{"file_name": "9.png", "text": "a"}', "(No such file or directory); check the name"),
    ('{"file_name": "1.png"}', "has no caption; write one beside it"),
    ('{"file_name": "1.png", "text": 5}', "caption 5 must be a text or a list of texts"),
    ('{"file_name": "1.png", "text": "a", "repeats": 0}', "repeats 0 must be a whole number"),
    ('{"file_name": "1.png", "text": "a", "weight": -1}', "weight -1 must be a number above 0"),
    ('{"file_name": "../secret.png", "text": "a"}', "leaves the folder of metadata.jsonl"),
    ('{"file_name": "b/../../secret.png", "text": "a"}', "leaves the folder"),
    ('{"file_name": "..\\\\secret.png", "text": "a"}', "leaves the folder"),
    ('{"file_name": "PARENT/secret.png", "text": "a"}', "leaves the folder"),
    ('{"file_name": "1.png", "text": "a", "mask": "../secret.png"}', "leaves the folder"),
]


@pytest.mark.filterwarnings("ignore:.* left aside")
@pytest.mark.parametrize(("line", "told_of"), LINES)
def test_a_wrong_line_is_told_by_its_number(
    own: Settings, tmp_path: Path, line: str, told_of: str
) -> None:
    save(tmp_path / "secret.png", photo((32, 32)))  # would do as a picture and as a mask
    table = write(
        tmp_path / "photos" / "metadata.jsonl",
        f"{GOOD}\n\n{line.replace('PARENT', str(tmp_path))}\n{GOOD}\n",
    )
    message = refusal(own, DataError)
    assert message.startswith(f"the training data have a fault: {table} line 3: ")
    assert told_of in message
    assert not drafts(tmp_path)


@pytest.mark.filterwarnings("ignore:.* left aside")
def test_a_wrong_row_is_told_by_its_number(own: Settings, tmp_path: Path) -> None:
    table = write(tmp_path / "photos" / "metadata.csv", "file_name,text\n0.png,a\n1.png,a,3\n")
    assert f"{table} line 3: has 3 cells, the header has 2" in refusal(own, DataError)


# ---- the cache --------------------------------------------------------------------------------


def test_a_cache_from_another_model(
    own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(changed(own, steps=1))
    other = tiny.write_model(tmp_path / "other", seed=1)
    monkeypatch.setattr("danqing.weights.model.build", no_model)
    before = files(tmp_path / "cache")
    ours = changed(own, model=str(other), out=str(tmp_path / "second.safetensors"))
    message = refusal(ours, DataError)
    assert f"the cache {tmp_path / 'cache'} belongs to {own.model}, not to {other}" in message
    assert "choose another folder for the cache" in message
    assert files(tmp_path / "cache") == before
    assert not (tmp_path / "second.safetensors").exists()


def test_a_cache_that_is_another_folder(own: Settings, tmp_path: Path) -> None:
    save(tmp_path / "cache" / "holiday.png")
    assert "is not empty and no cache; choose another folder" in refusal(own, DataError)
    assert list(files(tmp_path / "cache")) == ["holiday.png"]


def test_a_damaged_cache_is_mended_on_the_way(own: Settings, tmp_path: Path) -> None:
    straight = changed(own, out=str(tmp_path / "straight.safetensors"))
    told(straight)
    damaged = sorted((tmp_path / "cache").rglob("*.safetensors"))
    for n, path in enumerate(damaged):
        content = path.read_bytes()
        write(path, [b"", content[:-5], content[:60] + b"x" + content[61:]][n % 3])
    with pytest.warns(UserWarning, match="is damaged .*computed anew"):
        told(own)
    assert Path(own.out).read_bytes() == Path(straight.out).read_bytes()


# ---- resuming with something changed ----------------------------------------------------------


def replace_picture(folder: Path) -> None:
    save(folder / "photos" / "1.png", photo((32, 32), 9))


def write_caption(folder: Path) -> None:
    write(folder / "photos" / "1.txt", "another thing")


CHANGES: list[tuple[dict[str, object], str]] = [
    ({"rate": 0.5}, "(rate was 0.01 and is 0.5)"),
    ({"rank": 4, "seed": 3}, "(rank was 2 and is 4; seed was 0 and is 3)"),
    ({"targets": ["attention"]}, "(targets was ['attn.to_q'] and is ['attention'])"),
    ({"steps": 9}, "(steps was 4 and is 9)"),
    ({"trigger": "ohwx"}, "trigger was '' and is 'ohwx'"),
]


def test_what_was_changed_is_named(own: Settings, tmp_path: Path) -> None:
    killed_after(own, 3)
    folder = tmp_path / "mine.run"
    state, result = (folder / checkpoint.STATE).read_bytes(), Path(own.out).read_bytes()
    for values, told_of in CHANGES:
        message = refusal(changed(own, **values), TrainingError)
        assert f"{folder} holds a training with other settings" in message
        assert told_of in message
        assert "go on with the same ones, or name another --out" in message
    for change in (replace_picture, write_caption):
        change(tmp_path)
        assert "(the data was " in refusal(own, TrainingError)
    assert (folder / checkpoint.STATE).read_bytes() == state
    assert Path(own.out).read_bytes() == result


def test_another_base_of_the_same_name(own: Settings, tmp_path: Path) -> None:
    model = Path(shutil.copytree(own.model, tmp_path / "model"))
    ours = changed(own, model=str(model))
    killed_after(ours, 3)
    other = tiny.write_model(tmp_path / "other", seed=1)
    shutil.rmtree(model / "transformer")
    shutil.copytree(other / "transformer", model / "transformer")
    assert "(the model was " in refusal(ours, TrainingError)


def test_what_may_be_changed(own: Settings, tmp_path: Path) -> None:
    straight = changed(own, out=str(tmp_path / "straight.safetensors"))
    told(straight)
    killed_after(own, 3)
    events = told(changed(own, save_every=1, threads=1, cache=str(tmp_path / "second")))
    assert of(events, Resumed) == [Resumed(2)]
    assert Path(own.out).read_bytes() == Path(straight.out).read_bytes()


# ---- losses that are not finite ---------------------------------------------------------------


def spoil_latent(own: Settings, name: str) -> Path:
    """Put what is no number into the cached latent of one picture; the latent's file."""
    place = prepare.place_of(own, CPU)
    cache = prepare.open_cache(own, place, Path(own.out).parent)
    found = prepare.find_pictures(own, place).learnt
    (key,) = [cache.latent_key(p) for p in found if p.record.origin.endswith(name)]
    mean, logvar = cache.latent(key)
    cache.keep_latent(key, mean * float("nan"), logvar)
    return next(cache.folder.rglob(f"{key}.safetensors"))


def check_good(own: Settings, step: int) -> None:
    """The state and the result are of this step, and all of their numbers are finite."""
    state = checkpoint.load(Path(own.out).with_suffix(".run"))
    assert state is not None
    assert state["step"] == step
    assert all(bool(t.isfinite().all()) for t in state["parts"]["weights"].values())
    with safe_open(own.out, framework="pt") as file:
        assert f'"step": {step}' in file.metadata()["danqing_training"]
    updates = formats.read(Path(own.out)).updates.values()
    assert all(bool(t.isfinite().all()) for update in updates for t in update.parts.values())


def test_a_loss_that_is_no_number_stops_the_training(own: Settings, tmp_path: Path) -> None:
    straight = changed(
        own, steps=6, seed=1, save_every=1, out=str(tmp_path / "straight.safetensors")
    )
    told(straight)
    ours = changed(straight, out=own.out)
    latent = spoil_latent(ours, "1.png")
    events, message = stopped(ours, TrainingError)
    good = of(events, Saved)[-1].step
    assert good >= 1
    assert of(events, Stepped)[-1].step == good
    assert f"the loss is nan at step {good + 1} " in message
    assert f"(pictures: {tmp_path / 'photos' / '1.png'})" in message
    assert f"the last good state is in {tmp_path / 'mine.run'}" in message
    assert "Lower the rate, or leave these pictures out" in message
    assert "\n" not in message
    check_good(ours, good)
    assert not drafts(tmp_path)
    latent.unlink()  # the mended training goes on as if nothing had been
    assert of(told(ours), Resumed) == [Resumed(good)]
    assert Path(ours.out).read_bytes() == Path(straight.out).read_bytes()


def test_all_pictures_of_the_step_are_named(own: Settings, tmp_path: Path) -> None:
    told(own)
    ours = changed(own, batch=2, accumulate=2, out=str(tmp_path / "second.safetensors"))
    spoil_latent(ours, "2.png")
    message = stopped(ours, TrainingError)[1]
    assert "at step 1 " in message
    assert all(message.count(f"{n}.png") == 1 for n in range(4))


def test_a_rate_that_is_far_too_high(own: Settings) -> None:
    wild = {
        "dtype": "float16",
        "rate": 10.0,
        "clip": 0.0,
        "schedule": "constant",
        "ema": 0.0,
        "targets": ["usual"],
    }
    ours = changed(own, **wild, steps=20, save_every=1)
    events, message = stopped(ours, TrainingError)
    good = of(events, Saved)[-1].step
    assert f"at step {good + 1} (pictures: " in message
    check_good(ours, good)


def test_no_state_is_promised_where_there_is_none(own: Settings, tmp_path: Path) -> None:
    told(own)
    ours = changed(own, save_every=0, seed=1, out=str(tmp_path / "second.safetensors"))
    spoil_latent(ours, "1.png")
    message = stopped(ours, TrainingError)[1]
    promised = "the last good state is in" in message
    assert promised == checkpoint.exists(tmp_path / "second.run")


def test_a_gradient_that_is_no_number_is_called_so(tmp_path: Path) -> None:
    run = small.training(tmp_path, small.settings())
    next(iter(run.parameters.values())).register_hook(lambda gradient: gradient * float("nan"))
    before = small.weights(run)
    with pytest.raises(TrainingError, match=r"gradient.* nan at step 1 ") as caught:
        list(run.run())
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[n]) for n, tensor in small.weights(run).items())


# ---- the place of the result ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "told_of"),
    [
        ("photos/0.png/mine.safetensors", "among the pictures"),
        ("notes/mine.safetensors", "cannot write"),
        ("mine.pt", "give --out"),
        ("x" * 300 + ".safetensors", "shorter name"),
        ("a\0b.safetensors", "--out"),
    ],
)
def test_a_place_that_cannot_be(
    own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, told_of: str
) -> None:
    write(tmp_path / "notes", "a file, no folder")
    monkeypatch.setattr("danqing.weights.model.build", no_model)
    before = files(tmp_path)
    with pytest.raises((OutputError, TrainingError), match=told_of) as caught:
        told(changed(own, out=os.path.join(tmp_path, out)))
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == before


def test_a_file_that_was_not_made_here_stays(own: Settings) -> None:
    write(Path(own.out), "precious")
    assert "give another --out" in refusal(own, OutputError)
    assert Path(own.out).read_bytes() == b"precious"
