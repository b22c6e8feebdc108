"""Filling a cache: what is missing, by the bits of inference, by several processes at once."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import danqing
from danqing.errors import DataError, TrainingError
from danqing.models.tiling import encode_tiled
from danqing.training.cache import Cache, Stamp, sample
from danqing.training.data import encode
from danqing.training.data.buckets import Buckets
from danqing.training.data.captions import all_texts
from danqing.training.data.encode import Encoders, fill
from danqing.training.data.faults import DataFaults
from danqing.training.data.pictures import Picture, plan
from danqing.types import BLANK
from tests import tiny
from tests.training.pictures import photo, record, save, write

TEXTS = ["a red fox", "一只红色的狐狸", BLANK, "a blue dog in the rain and the snow", "a red box"]


@pytest.fixture(scope="module")
def encoders(tiny_pipe: danqing.Pipeline) -> Encoders:
    model = tiny_pipe.model
    return Encoders(model.vae, model.text_encoder, model.tokenizer, tiny_pipe.device)


@pytest.fixture
def cache(tmp_path: Path, tiny_model: Path) -> Cache:
    return Cache(tmp_path / "cache", Stamp.of("tiny", tiny_model), torch.float32)


def pictures(folder: Path, count: int = 3) -> list[Picture]:
    sizes = [(64, 32), (32, 64), (48, 48)]
    return [
        Picture(record(save(folder / f"{n}.png", photo((80, 70), n))), sizes[n % 3])
        for n in range(count)
    ]


def files(cache: Cache) -> dict[str, bytes]:
    paths = cache.folder.rglob("*.safetensors")
    return {str(path.relative_to(cache.folder)): path.read_bytes() for path in paths}


# ---- the values -------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
def test_text_features_have_the_bits_of_the_pipeline(
    cache: Cache, encoders: Encoders, tiny_pipe: danqing.Pipeline, together: bool
) -> None:
    assert tiny_pipe.together
    list(fill(cache, encoders, [], TEXTS, together=together))
    for text in TEXTS:
        found = cache.text(cache.text_key(text))
        assert torch.equal(found, tiny_pipe.encode([text])[0].features)
    whole = tiny_pipe.encode(TEXTS)
    for text, features in zip(TEXTS, whole, strict=True):
        assert torch.equal(cache.text(cache.text_key(text)), features.features)


def test_text_features_have_the_dtype_of_the_model(tmp_path: Path, tiny_model: Path) -> None:
    pipe = danqing.load(str(tiny_model), device="cpu", dtype="bfloat16")
    model = pipe.model
    encoders = Encoders(model.vae, model.text_encoder, model.tokenizer, pipe.device)
    cache = Cache(tmp_path / "cache", Stamp.of("tiny", tiny_model), torch.bfloat16)
    (picture,) = pictures(tmp_path, 1)
    list(fill(cache, encoders, [picture], ["a red fox"]))
    found = cache.text(cache.text_key("a red fox"))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, pipe.encode(["a red fox"])[0].features)
    assert cache.latent(cache.latent_key(picture))[0].dtype == torch.float32


def test_latents_are_those_of_the_vae(cache: Cache, encoders: Encoders, tmp_path: Path) -> None:
    (picture,) = pictures(tmp_path, 1)
    list(fill(cache, encoders, [picture], []))
    mean, logvar = cache.latent(cache.latent_key(picture))
    pixels = torch.from_numpy(np.array(picture.image())).permute(2, 0, 1)[None] / 127.5 - 1
    raw_mean, raw_logvar = encoders.vae.encode(pixels)
    noise = tiny.draw(16, 4, 8)
    wanted = encoders.vae.normalise(raw_mean + (0.5 * raw_logvar).exp() * noise)[0]
    assert mean.shape == logvar.shape == (16, 4, 8)
    assert torch.equal(mean, encoders.vae.normalise(raw_mean)[0])
    assert torch.allclose(sample(mean, logvar, noise), wanted, atol=1e-5)


def test_a_transparent_picture_lies_on_the_background(
    tiny_model: Path, encoders: Encoders, tmp_path: Path
) -> None:
    colour = (10, 200, 30)
    cache = Cache(
        tmp_path / "cache", Stamp.of("tiny", tiny_model), torch.float32, background=colour
    )
    clear = Picture(record(save(tmp_path / "a.png", Image.new("RGBA", (16, 16)))), (16, 16))
    list(fill(cache, encoders, [clear], []))
    wanted, _ = encode.encode_image(encoders, Image.new("RGB", (16, 16), colour), torch.float32)
    assert torch.equal(cache.latent(cache.latent_key(clear))[0], wanted)


def test_pixels_are_between_minus_one_and_one() -> None:
    image = photo((16, 32))
    image.putpixel((0, 0), (0, 255, 51))
    found = encode.to_tensor(image)
    assert found.shape == (3, 32, 16)
    assert found.dtype == torch.float32
    assert found[:, 0, 0].tolist() == pytest.approx([-1, 1, -0.6])
    back = ((found + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert (back == np.asarray(image)).all()


def test_large_pictures_are_encoded_in_tiles(
    encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photo((320, 272))
    whole, _ = encode.encode_image(encoders, image, torch.float32)
    monkeypatch.setattr(encode, "TILE_ABOVE", 320 * 272)
    assert torch.equal(encode.encode_image(encoders, image, torch.float32)[0], whole)
    monkeypatch.setattr(encode, "TILE_ABOVE", 320 * 272 - 1)
    tiled, _ = encode.encode_image(encoders, image, torch.float32)
    mean, _ = encode_tiled(encoders.vae, encode.to_tensor(image)[None])
    assert torch.equal(tiled, encoders.vae.normalise(mean)[0])
    assert not torch.equal(tiled, whole)


def test_large_is_what_the_engine_calls_large() -> None:
    from danqing import engine

    assert engine.TILE_ABOVE == encode.TILE_ABOVE
    assert engine.MAX_TEXT_TOKENS == encode.MAX_TEXT_TOKENS


# ---- packs ------------------------------------------------------------------------------------


def test_packs() -> None:
    tokens = {str(n): [0] * 1000 for n in range(10)}
    assert [len(pack) for pack in encode.packs(tokens, True)] == [4, 4, 2]
    assert [len(pack) for pack in encode.packs(tokens, False)] == [1] * 10
    assert list(encode.packs({}, True)) == []
    large = {"a": [0] * 5000, "b": [0]}
    assert [list(pack) for pack in encode.packs(large, True)] == [["a"], ["b"]]


# ---- what is computed -------------------------------------------------------------------------


def test_progress(cache: Cache, encoders: Encoders, tmp_path: Path) -> None:
    shown = pictures(tmp_path)
    steps = list(fill(cache, encoders, shown, [*TEXTS, TEXTS[0]]))
    assert steps[0] == (0, 8)
    assert steps[-1] == (8, 8)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert [done for done, _ in steps][-4:] == [5, 6, 7, 8]
    assert len(files(cache)) == 8


class Refusing:
    """A network that must not be used."""

    def __call__(self, *_: object) -> None:
        raise AssertionError

    encode = prefix = __call__


def idle(encoders: Encoders, *names: str) -> Encoders:
    networks: Any = {name: Refusing() for name in names}
    return replace(encoders, **networks)


def test_only_what_is_missing_is_computed(cache: Cache, encoders: Encoders, tmp_path: Path) -> None:
    shown = pictures(tmp_path)
    list(fill(cache, encoders, shown, TEXTS))
    before = files(cache)
    none = idle(encoders, "vae", "text_encoder")
    assert list(fill(cache, none, shown, TEXTS))[-1] == (8, 8)
    with pytest.raises(AssertionError):
        list(fill(cache, none, [], ["another"]))
    with pytest.raises(AssertionError):
        list(fill(cache, none, [replace(shown[0], size=(16, 16))], TEXTS))
    assert files(cache) == before


def test_a_stopped_filling_goes_on(cache: Cache, encoders: Encoders, tmp_path: Path) -> None:
    shown = pictures(tmp_path)
    begun = fill(cache, encoders, shown, TEXTS)
    while next(begun)[0] < 6:
        pass
    begun.close()  # type: ignore[attr-defined]
    assert len(files(cache)) == 6
    assert list(fill(cache, idle(encoders, "text_encoder"), shown, TEXTS))[-1] == (8, 8)
    assert len(files(cache)) == 8


def test_a_picture_in_two_places_is_encoded_once(
    cache: Cache, encoders: Encoders, tmp_path: Path
) -> None:
    (one,) = pictures(tmp_path, 1)
    copy = write(tmp_path / "copy.png", (tmp_path / "0.png").read_bytes())
    steps = list(fill(cache, encoders, [one, Picture(record(copy), one.size)], []))
    assert steps[-1] == (2, 2)
    assert len(files(cache)) == 1


def test_a_damaged_file_is_computed_anew(cache: Cache, encoders: Encoders, tmp_path: Path) -> None:
    shown = pictures(tmp_path, 2)
    list(fill(cache, encoders, shown, TEXTS))
    before = files(cache)
    damaged = [sorted(n for n in before if n.startswith(k))[0] for k in ("latents", "text")]
    for name in damaged:
        write(cache.folder / name, before[name][:-1])
    with pytest.warns(UserWarning, match="is damaged .* it is computed anew") as told:
        list(fill(cache, encoders, shown, TEXTS))
    assert len(told) == 2
    assert files(cache) == before


# ---- errors -----------------------------------------------------------------------------------


def test_captions_that_are_too_long_are_told_before_any_work(
    cache: Cache, encoders: Encoders, tmp_path: Path
) -> None:
    with pytest.raises(DataFaults) as caught:
        list(fill(cache, encoders, pictures(tmp_path, 1), ["fox", "y" * 1200, "z" * 1300]))
    assert len(caught.value.faults) == 2
    assert caught.value.faults[0].startswith("caption has 1200 tokens")
    assert files(cache) == {}


def test_a_picture_that_went_away_is_named(
    cache: Cache, encoders: Encoders, tmp_path: Path
) -> None:
    (picture,) = pictures(tmp_path, 1)
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError, match=r"^0.png: cannot read"):
        list(fill(cache, encoders, [picture], []))


def test_what_is_not_finite_is_named(cache: Cache, encoders: Encoders, tmp_path: Path) -> None:
    vae: Any = tiny.vae()
    text = tiny.text_encoder()
    vae.quant_conv.bias.data[20] = float("inf")  # of the log-variance, which is clamped
    list(fill(cache, replace(encoders, vae=vae), pictures(tmp_path, 1), []))
    vae.quant_conv.bias.data[3] = float("nan")
    with pytest.raises(TrainingError, match=r"^1.png is not finite once encoded"):
        list(fill(cache, replace(encoders, vae=vae), pictures(tmp_path, 2), []))
    text.norm.weight.data[0] = float("nan")
    with pytest.raises(TrainingError, match=r"^caption 'a red fox' is not finite"):
        list(fill(cache, replace(encoders, text_encoder=text), [], ["a red fox"]))


# ---- several processes ------------------------------------------------------------------------

WORKER = """
import sys, time
from pathlib import Path
import torch, danqing
from danqing.training.cache import Cache, Stamp
from danqing.training.data.buckets import Buckets
from danqing.training.data.captions import all_texts
from danqing.training.data.encode import Encoders, fill
from danqing.training.data.gather import gather
from danqing.training.data.pictures import plan
from danqing.training.data.records import Source

model, data, folder, me = sys.argv[1:]
pipe = danqing.load(model, device="cpu", threads=1)
parts = pipe.model
encoders = Encoders(parts.vae, parts.text_encoder, parts.tokenizer, pipe.device)
records = gather([Source(data)])
Path(folder, f"../ready-{me}").touch()
while len(list(Path(folder, "..").glob("ready-*"))) < 2:
    time.sleep(0.002)
cache = Cache(Path(folder), Stamp.of("tiny", Path(model)), torch.float32)
for done, total in fill(cache, encoders, plan(records, Buckets(64 * 64)), all_texts(records)):
    pass
assert done == total == 24, (done, total)
"""


def test_two_processes_fill_one_cache_at_once(
    tiny_model: Path, tmp_path: Path, encoders: Encoders
) -> None:
    records = []
    for n in range(12):
        path = save(tmp_path / "data" / f"{n:02}.png", photo((80, 70), n))
        write(path.with_suffix(".txt"), f"picture number {n}")
        records.append(record(path, f"picture number {n}"))
    folder = tmp_path / "caches" / "cache"
    folder.mkdir(parents=True)
    places = [str(path) for path in (tiny_model, tmp_path / "data", folder)]
    command = [sys.executable, "-W", "error", "-c", WORKER, *places]
    workers = [
        subprocess.Popen([*command, me], stderr=subprocess.PIPE, text=True) for me in ("a", "b")
    ]
    for worker in workers:
        _, told = worker.communicate(timeout=120)
        assert (worker.returncode, told) == (0, "")
    together = Cache(folder, Stamp.of("tiny", tiny_model), torch.float32)
    assert len(files(together)) == 24
    assert not list(folder.rglob("*.tmp"))
    alone = Cache(tmp_path / "alone", Stamp.of("tiny", tiny_model), torch.float32)
    list(fill(alone, encoders, plan(records, Buckets(64 * 64)), all_texts(records)))
    assert files(alone) == files(together)
