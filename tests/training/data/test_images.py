"""Every kind of picture becomes 8-bit RGB, upright, or is refused."""

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from danqing.errors import DataError
from danqing.training.data.images import measure, open_rgb
from danqing.training.data.records import Place
from tests.training.pictures import encoded, hollow_png, photo, save, shard, write

RED = (255, 0, 0)


def pixels(path: Path, **options: Any) -> np.ndarray:
    image = open_rgb(Place(path), **options)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def grey(path: Path) -> list[int]:
    """The values of a one-row picture; all channels must agree."""
    found = pixels(path)
    assert (found == found[..., :1]).all()
    return [int(value) for value in found[0, :, 0]]


def row(*values: float, dtype: Any) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=dtype))


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_rgb(Place(path))
    return str(caught.value)


# ---- modes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif", "avif", "jpg"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    found = pixels(save(tmp_path / f"a.{suffix}", **options))
    error = np.abs(found - np.asarray(photo()).astype(int)).mean()
    assert error <= {"gif": 20, "jpg": 6, "avif": 6}.get(suffix, 0)


def test_a_member_of_a_shard(tmp_path: Path) -> None:
    content = encoded()
    path = shard(tmp_path / "s.tar", {"x.txt": "fox", "a.png": content})
    start = path.read_bytes().index(content)
    place = Place(path, "a.png", start, len(content))
    assert open_rgb(place).tobytes() == photo().tobytes()
    assert measure(place) == (40, 32)


def test_palettes_and_greys(tmp_path: Path) -> None:
    image = photo().quantize(16)
    found = pixels(save(tmp_path / "p.png", image))
    assert (found == np.asarray(image.convert("RGB"))).all()
    image = photo().convert("L")
    assert (pixels(save(tmp_path / "l.png", image))[..., 2] == np.asarray(image)).all()
    assert grey(save(tmp_path / "1.png", row(0, 255, dtype=np.uint8).convert("1"))) == [0, 255]


def test_cmyk(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for name, near in (("a.tif", 0), ("a.jpg", 3)):
        found = pixels(save(tmp_path / name, image))
        assert np.abs(found - (0, 255, 255)).max() <= near


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values, wanted = (0, 200, 300, 32896, 65535), [0, 1, 1, 128, 255]
    image = row(*values, dtype=np.uint16)
    assert image.mode == "I;16"
    for name in ("a.png", "a.tif"):
        assert grey(save(tmp_path / name, image)) == wanted
    big = Image.frombytes("I;16B", (5, 1), np.array(values, ">u2").tobytes())
    assert grey(save(tmp_path / "big.tif", big)) == wanted
    assert grey(save(tmp_path / "i.tif", row(*values, dtype=np.int32))) == wanted


def test_sixteen_bits_with_a_transparent_value(tmp_path: Path) -> None:
    image = row(0, 300, 65535, dtype=np.uint16)
    image.info["transparency"] = 300
    path = save(tmp_path / "a.png", image, transparency=300)
    assert pixels(path, background=RED).tolist() == [[[0, 0, 0], [255, 0, 0], [255, 255, 255]]]


def test_whole_numbers_beyond_sixteen_bits(tmp_path: Path) -> None:
    for value in (65536, -1):
        path = save(tmp_path / "a.tif", row(0, value, dtype=np.int32))
        assert refused(path) == "has numbers beyond 16 bits; save it with 8 or 16 bits"


def test_floating_point(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", row(0, 0.1, 0.5, 1, dtype=np.float32))
    assert grey(path) == [0, 26, 128, 255]
    for value in (1.01, -0.01, float("nan")):
        path = save(tmp_path / "b.tif", row(0, value, dtype=np.float32))
        assert "has floating-point numbers outside 0 to 1" in refused(path)


# ---- transparency -----------------------------------------------------------------------------


def test_alpha_lies_over_the_background(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 255, 255))
    image.putpixel((1, 0), (0, 0, 255, 0))
    image.putpixel((2, 0), (0, 0, 255, 51))
    path = save(tmp_path / "a.png", image)
    assert pixels(path).tolist() == [[[0, 0, 255], [255, 255, 255], [204, 204, 255]]]
    assert pixels(path, background=RED).tolist() == [[[0, 0, 255], [255, 0, 0], [204, 0, 51]]]


def test_other_kinds_of_transparency(tmp_path: Path) -> None:
    la = Image.new("LA", (2, 1), (0, 255))
    la.putpixel((1, 0), (0, 0))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    files = [save(tmp_path / "la.png", la), save(tmp_path / "int.gif", palette, transparency=1)]
    files.append(save(tmp_path / "bytes.png", palette, transparency=b"\xff\x00"))
    key = Image.new("RGB", (2, 1), (0, 0, 0))
    key.putpixel((1, 0), (9, 9, 9))
    files.append(save(tmp_path / "rgb.png", key, transparency=(9, 9, 9)))
    for path in files:
        assert pixels(path, background=RED).tolist() == [[[0, 0, 0], [255, 0, 0]]], path


# ---- orientation and frames -------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_it_is_turned_as_the_exif_data_say(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    path = save(tmp_path / f"a.{suffix}", photo((48, 16)), exif=exif)
    method = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
    }.get(orientation)
    wanted = photo((48, 16)) if method is None else photo((48, 16)).transpose(method)
    found = open_rgb(Place(path))
    assert found.size == wanted.size == measure(Place(path))
    assert np.abs(np.asarray(found).astype(int) - np.asarray(wanted)).mean() < 10


def test_sixteen_bits_are_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    path = save(tmp_path / "a.png", row(0, 65535, dtype=np.uint16), exif=exif)
    assert pixels(path)[:, 0, 0].tolist() == [0, 255]


def test_a_png_may_say_it_behind_its_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    content, block = encoded(photo((48, 16))), exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + block))
    path = write(tmp_path / "a.png", content[:-12] + chunk + content[-12:])
    assert open_rgb(Place(path)).size == measure(Place(path)) == (16, 48)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_the_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    path = save(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    assert np.abs(pixels(path) - RED).max() <= 4


# ---- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif"])
@pytest.mark.parametrize("share", [0.02, 0.6])
def test_a_picture_that_is_cut(tmp_path: Path, suffix: str, share: float) -> None:
    path = save(tmp_path / f"a.{suffix}", photo((64, 64)))
    content = path.read_bytes()
    write(path, content[: int(len(content) * share)])
    assert refused(path).endswith("; replace it")


def test_what_is_no_picture(tmp_path: Path) -> None:
    for content in (b"", b"<html>", bytes(1000)):
        path = write(tmp_path / "a.png", content)
        assert refused(path) == "is no picture of a known format; replace it"
    assert "No such file" in refused(tmp_path / "b.png")
    with pytest.raises(DataError, match="is no picture"):
        measure(Place(path))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 10_000)])
def test_a_decompression_bomb_is_refused_by_its_header(
    tmp_path: Path, size: tuple[int, int], strict: bool
) -> None:
    path = write(tmp_path / "a.png", hollow_png(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        number = size[0] * size[1]
        assert refused(path) == f"has more than 89478485 pixels ({number}); scale it down"
        with pytest.raises(DataError, match="has more than 89478485 pixels"):
            measure(Place(path))


def test_measuring_does_not_decode_a_photo(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", photo((64, 48)))
    write(path, path.read_bytes()[:-400])
    assert measure(Place(path)) == (64, 48)
    assert "cannot be decoded" in refused(path)
