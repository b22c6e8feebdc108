"""Shards, indices and damaged files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danqing.errors import ModelError, OutputError, WeightsError
from danqing.weights import files
from danqing.weights.export import save_component
from danqing.weights.files import TensorFiles, dtype_named, read_json, write_json, write_tensors
from tests import tiny
from tests.weights.edit import loaded, names_in, same, weights_file

STEM = "diffusion_pytorch_model"
INDEX = f"{STEM}.safetensors.index.json"


@pytest.fixture
def sharded(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model folder with its transformer in shards of 256 KiB."""
    network = loaded(tiny_copy, "transformer")
    weights_file(tiny_copy, "transformer").unlink()
    monkeypatch.setattr(files, "SHARD_BYTES", 256 * 1024)
    save_component("transformer", network, tiny_copy, dtype=torch.float32)
    return tiny_copy


def index_of(folder: Path) -> dict:
    return json.loads((folder / "transformer" / INDEX).read_text("utf-8"))


def test_shards_are_read_like_one_file(sharded: Path, tiny_model: Path) -> None:
    assert same(loaded(sharded, "transformer"), loaded(tiny_model, "transformer"))


def test_shards_are_named_as_published_and_small(sharded: Path) -> None:
    shards = sorted((sharded / "transformer").glob("*.safetensors"))
    count = len(shards)
    assert count > 3
    assert [s.name for s in shards] == [
        f"{STEM}-{n + 1:05d}-of-{count:05d}.safetensors" for n in range(count)
    ]
    assert all(s.stat().st_size < 300 * 1024 for s in shards)


def test_the_index_tells_homes_and_size(sharded: Path) -> None:
    index = index_of(sharded)
    homes = {n: s.name for s in (sharded / "transformer").glob("*-of-*") for n in load_file(s)}
    assert index["weight_map"] == homes
    assert index["metadata"]["total_size"] == sum(
        t.numel() * 4
        for s in (sharded / "transformer").glob("*-of-*")
        for t in load_file(s).values()
    )


def test_a_tensor_above_the_limit_has_a_shard_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SHARD_BYTES", 16)
    sizes = {"first": 9, "a": 2, "large": 9, "b": 4, "c": 1}
    tensors = {name: torch.ones(size) for name, size in sizes.items()}
    write_tensors(tmp_path, "model", iter(tensors.items()))
    held = [sorted(load_file(path)) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert held == [["first"], ["a"], ["large"], ["b"], ["c"]]


def test_no_drafts_are_left(sharded: Path) -> None:
    names = {path.name for path in (sharded / "transformer").iterdir()}
    assert names == {INDEX, "config.json", *index_of(sharded)["weight_map"].values()}


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = index_of(sharded)["weight_map"]["img_in.bias"]
    (sharded / "transformer" / shard).unlink()
    with pytest.raises(WeightsError, match=f"index.json names {shard}, which is not in"):
        loaded(sharded, "transformer")


@pytest.mark.parametrize("place", ["../vae/{}", "/etc/{}", "..", "sub/../../{}"])
def test_an_index_cannot_point_out_of_its_folder(sharded: Path, place: str) -> None:
    """The same file name elsewhere is not opened: the folder's own is, or none."""
    outside = weights_file(sharded, "vae").name
    index = index_of(sharded)
    index["weight_map"] = dict.fromkeys(index["weight_map"], place.format(outside))
    write_json(sharded / "transformer" / INDEX, index)
    with pytest.raises(WeightsError, match="which is not in"):
        loaded(sharded, "transformer")


def test_a_tensor_at_the_wrong_home_is_an_error(sharded: Path) -> None:
    index = index_of(sharded)
    homes = index["weight_map"]
    homes["img_in.bias"] = homes["proj_out.bias"]
    write_json(sharded / "transformer" / INDEX, index)
    with pytest.raises(WeightsError, match=r"img_in\.bias"):
        loaded(sharded, "transformer")


@pytest.mark.parametrize("index", [{}, {"weight_map": ["a"]}, {"weight_map": {"a": 3}}])
def test_an_index_of_another_form_is_an_error(sharded: Path, index: dict) -> None:
    write_json(sharded / "transformer" / INDEX, index)
    with pytest.raises(ModelError, match=r"index\.json"):
        loaded(sharded, "transformer")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_an_error(tiny_copy: Path, kept: int) -> None:
    path = weights_file(tiny_copy, "transformer")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"truncated or not a safetensors file .* fetch it"):
        loaded(tiny_copy, "transformer")


@pytest.mark.parametrize("content", [b"garbage" * 99, b"\xff" * 64, b"PK\x03\x04" + bytes(99)])
def test_garbage_is_an_error(tiny_copy: Path, content: bytes) -> None:
    weights_file(tiny_copy, "vae").write_bytes(content)
    with pytest.raises(WeightsError, match=r"vae.*safetensors is truncated or not"):
        loaded(tiny_copy, "vae")


def test_no_weights_at_all_is_an_error(tiny_copy: Path) -> None:
    weights_file(tiny_copy, "vae").unlink()
    with pytest.raises(ModelError, match=f"vae has no {STEM}.safetensors and no {INDEX}"):
        loaded(tiny_copy, "vae")


def test_pickles_are_not_looked_at(tiny_copy: Path) -> None:
    path = weights_file(tiny_copy, "vae")
    path.rename(path.with_name(f"{STEM}.bin"))
    with pytest.raises(ModelError, match="has no"):
        loaded(tiny_copy, "vae")


def test_files_are_closed(tiny_model: Path) -> None:
    with TensorFiles(tiny_model / "vae", STEM) as opened:
        assert opened.shape("post_quant_conv.bias") == (16,)
    assert "post_quant_conv.bias" in names_in(tiny_model, "vae")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"a": NaN', "\ufeff{}"])
def test_broken_json_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ModelError, match=r"config\.json"):
        read_json(path)


def test_json_of_other_bytes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(ModelError, match="cannot read"):
        read_json(path)


def test_missing_json_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        read_json(tmp_path / "config.json")


def test_json_is_written_whole_and_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"提示": 1})
    assert read_json(tmp_path / "new" / "a.json") == {"提示": 1}
    assert "提示" in (tmp_path / "new" / "a.json").read_text("utf-8")


def test_an_unwritable_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_json(tmp_path / "file" / "a.json", {})


def test_dtypes_by_name() -> None:
    assert dtype_named("bfloat16") is torch.bfloat16
    with pytest.raises(ModelError, match="'int8' is unknown; choose float32, bfloat16, float16"):
        dtype_named("int8")


def test_the_folder_that_was_written_is_the_tiny_one(tiny_model: Path) -> None:
    assert same(loaded(tiny_model, "vae"), tiny.networks()["vae"])
