"""The recipe: made, written, read again, and refused where it is not whole."""

import contextlib
import errno
import json
import os
import stat
import subprocess
import sys

import pytest
from PIL import Image

from danqing import recipe
from danqing.errors import OutputError, RecipeError
from danqing.types import Request
from danqing.version import __version__

PROFILE = {"torch": "2.13", "dtype": "float32", "id": "abc"}
SIGMAS = [1.0, 0.8999999761581421, 0.30000001192092896, 0.0]


@pytest.fixture
def image() -> Image.Image:
    return Image.effect_mandelbrot((32, 16), (-2, -1, 1, 1), 20).convert("RGB")


@pytest.fixture
def made(image) -> dict:
    request = Request(
        "一只红色的狐狸", "blurry", 2**63 - 1, (32, 16), guidance=4, adapters={"a": 0.8}
    )
    return recipe.make(
        request, "mini", "0123456789abcdef", SIGMAS, PROFILE, image, {"a": "ff" * 32}
    )


def test_make_holds_everything(made, image):
    assert json.loads(json.dumps(made)) == made
    assert made == {
        "danqing": __version__,
        "model": {"id": "mini", "fingerprint": "0123456789abcdef"},
        "prompt": "一只红色的狐狸",
        "negative": "blurry",
        "seed": 2**63 - 1,
        "size": [32, 16],
        "steps": 3,
        "sigmas": SIGMAS,
        "guidance": 4.0,
        "adapters": {"a": {"strength": 0.8, "sha256": "ff" * 32}},
        "profile": PROFILE,
        "pixels_sha256": recipe.pixels_sha256(image),
    }


def test_the_hash_is_of_the_rgb_bytes(image):
    import hashlib

    assert recipe.pixels_sha256(image) == hashlib.sha256(image.tobytes()).hexdigest()
    assert recipe.pixels_sha256(image.convert("RGBA")) == recipe.pixels_sha256(image)


def test_round_trip_through_a_file(tmp_path, made, image):
    path = tmp_path / "fox.png"
    recipe.save_png(image, made, path)
    assert recipe.read(path) == made
    assert recipe.pixels_sha256(recipe.open_png(path)) == made["pixels_sha256"]
    request = recipe.to_request(made)
    assert request.sigmas == tuple(SIGMAS)
    assert (request.steps, request.size, request.seed) == (None, (32, 16), 2**63 - 1)
    again = recipe.make(
        request, "mini", "0123456789abcdef", SIGMAS, PROFILE, image, {"a": "ff" * 32}
    )
    assert again == made


@pytest.mark.parametrize("prompt", ["fox", "une forêt", "狐狸\n🦊", "a\0b\x07"])
def test_any_text_passes(tmp_path, made, image, prompt):
    recipe.save_png(image, {**made, "prompt": prompt}, tmp_path / "x.png")
    assert recipe.read(tmp_path / "x.png")["prompt"] == prompt
    text = recipe.open_png(tmp_path / "x.png").text["parameters"]
    assert text.startswith(prompt.replace("\0", ""))


def test_the_chunks_are_latin_or_international(tmp_path, made, image):
    recipe.save_png(image, made, tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    assert b"iTXtdanqing\0" in data
    assert b"iTXtparameters\0" in data
    recipe.save_png(image, {**made, "prompt": "fox"}, tmp_path / "y.png")
    assert b"tEXtparameters\0fox\n" in (tmp_path / "y.png").read_bytes()


def test_parameters_text_as_other_tools_read_it(made):
    assert recipe.parameters_text(made) == (
        "一只红色的狐狸\n"
        "Negative prompt: blurry\n"
        "Steps: 3, Sampler: Euler, CFG scale: 4, Seed: 9223372036854775807, Size: 32x16, "
        f"Model: mini, Model hash: 0123456789, Adapters: a 0.8, "
        f"Version: danqing {__version__}"
    )


def test_parameters_text_leaves_out_a_blank_negative_and_quotes_odd_names(made):
    odd = {"id": "a, b: c", "fingerprint": "sha256:99aabbccddeeff"}
    text = recipe.parameters_text({**made, "negative": " ", "model": odd})
    assert "Negative" not in text
    assert 'Model: "a, b: c", Model hash: 99aabbccdd' in text


def test_an_existing_file_stays_unless_asked(tmp_path, made, image):
    path = tmp_path / "fox.png"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists; choose another name") as error:
        recipe.save_png(image, made, path)
    assert isinstance(error.value.__cause__, FileExistsError)
    assert path.read_text() == "mine"
    recipe.save_png(image, made, path, overwrite=True)
    assert recipe.read(path) == made
    assert os.listdir(tmp_path) == ["fox.png"]


def test_without_hard_links(tmp_path, made, image, monkeypatch):
    def none(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", none)
    recipe.save_png(image, made, tmp_path / "fox.png")
    assert recipe.read(tmp_path / "fox.png") == made
    with pytest.raises(OutputError, match="exists"):
        recipe.save_png(image, made, tmp_path / "fox.png")
    assert os.listdir(tmp_path) == ["fox.png"]


def test_a_file_has_the_usual_permissions(tmp_path, made, image):
    recipe.save_png(image, made, tmp_path / "fox.png")
    (tmp_path / "plain").write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("fox.png", "plain")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space or choose another folder"),
        (errno.EACCES, "choose a folder that you may write to"),
    ],
)
def test_a_refusal_leaves_nothing(tmp_path, made, image, monkeypatch, number, remedy):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError) as error:
        recipe.save_png(image, made, tmp_path / "fox.png")
    assert str(error.value) == (
        f"cannot write {tmp_path / 'fox.png'}: {os.strerror(number)}; {remedy}"
    )
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_none(tmp_path, made, image):
    with pytest.raises(OutputError, match="No such file or directory; create that folder"):
        recipe.save_png(image, made, tmp_path / "none" / "fox.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Not a directory"):
        recipe.save_png(image, made, tmp_path / "file" / "fox.png")


def test_read_refuses_what_is_no_picture(tmp_path, image):
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "photo.jpg")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, told in [
        ("plain.png", "plain.png carries no recipe; give a PNG as danqing wrote it"),
        ("photo.jpg", "photo.jpg is not a PNG"),
        ("text.png", "text.png is not a PNG"),
        ("empty.png", "empty.png is not a PNG"),
        ("none.png", "No such file or directory; check the name"),
        (".", "Is a directory"),
    ]:
        with pytest.raises(RecipeError, match=told):
            recipe.read(tmp_path / name)


def test_a_file_cut_anywhere_is_refused(tmp_path, made, image):
    recipe.save_png(image, made, tmp_path / "fox.png")
    data = (tmp_path / "fox.png").read_bytes()
    end = data.index(b"IDAT") + 20
    for length in range(0, end, 7):
        (tmp_path / "cut.png").write_bytes(data[:length])
        with pytest.raises(RecipeError):
            recipe.read(tmp_path / "cut.png")


def test_a_damaged_byte_never_crashes(tmp_path, made, image):
    recipe.save_png(image, made, tmp_path / "fox.png")
    data = bytearray((tmp_path / "fox.png").read_bytes())
    for place in range(0, len(data), 11):
        damaged = bytes(data[:place]) + bytes([data[place] ^ 0x55]) + bytes(data[place + 1 :])
        (tmp_path / "bad.png").write_bytes(damaged)
        with contextlib.suppress(RecipeError):  # some bytes do not matter
            recipe.read(tmp_path / "bad.png")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": None}, "field 'prompt' is None"),
        ({"seed": True}, "field 'seed' is True"),
        ({"seed": "7"}, "field 'seed' is '7'"),
        ({"size": [1]}, "field 'size'"),
        ({"size": [16.5, 16]}, "field 'size'"),
        ({"sigmas": []}, "not numbers"),
        ({"sigmas": ["1"]}, "not numbers"),
        ({"adapters": {"a": "b"}}, "adapter 'a' lacks its strength or sha256"),
        ({"adapters": {"a": 0.8}}, "adapter 'a' lacks its strength or sha256"),
        ({"adapters": {"a": {"strength": "1", "sha256": ""}}}, "adapter 'a' lacks"),
        ({"adapters": {"a": {"strength": 1}}}, "adapter 'a' lacks"),
        ({"model": {"id": "mini"}}, "lacks its id or fingerprint"),
    ],
)
def test_a_recipe_with_wrong_fields_is_refused(tmp_path, made, image, change, told):
    text = {**made, **change}
    write_chunk(image, json.dumps(text), tmp_path / "x.png")
    with pytest.raises(RecipeError, match="carries a damaged recipe") as error:
        recipe.read(tmp_path / "x.png")
    assert told in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"prompt": "fox"}', "[" * 50_000])
def test_a_chunk_that_is_no_recipe_is_refused(tmp_path, image, text):
    write_chunk(image, text, tmp_path / "x.png")
    with pytest.raises(RecipeError, match="carries a damaged recipe"):
        recipe.read(tmp_path / "x.png")


def write_chunk(image, text, path):
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text("danqing", text)
    image.save(path, pnginfo=chunks)


def test_no_torch_is_needed():
    code = "import sys, danqing.recipe; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
