from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danqing.adapters.adapter import Adapter, Sampling, Update, delta
from danqing.adapters.info import describe, ranges
from danqing.adapters.published import LIGHTNING
from danqing.adapters.store import digest
from danqing.adapters.write import write
from danqing.errors import AdapterError
from tests.adapters import make


def test_everything_about_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    base, made = {"id": "mini", "fingerprint": "12"}, Sampling(4, None, 1.0)
    plain = make.adapter(rank=4, only="attn.to_q")
    wide = make.adapter(rank=8, only="mlp.net.2").updates
    told = {"ss_output_name": "ink", "ss_lr": "1"}
    adapter = replace(
        plain, updates={**plain.updates, **wide}, base=base, sampling=made, metadata=told
    )
    write(adapter, path, "kohya")
    found = describe(str(path))
    assert (found.path, found.bytes, found.sha256) == (path, path.stat().st_size, digest(path))
    assert found.naming == "kohya (lora_unet_*, lora_down/lora_up)"
    assert (found.base, found.sampling, found.dtypes) == (base, made, ["float32"])
    assert (found.tensors, found.metadata) == (18, {"ss_output_name": "ink"})
    assert found.odd == []
    groups = {group.target: group for group in found.groups}
    assert set(groups) == {"attn.to_q", "img_mlp.net.2", "txt_mlp.net.2"}
    query = groups["attn.to_q"]
    assert (query.kind, query.layers, query.blocks) == ("lora", 3, "0-2")
    assert (query.ranks, query.alphas) == ([4], [8.0])
    squares = [float(delta(update).square().sum()) for update in plain.updates.values()]
    assert query.norm == pytest.approx((sum(squares) / 3) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("kind", make.KINDS)
def test_norms_of_every_kind(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    adapter = make.adapter(kind, only="0.attn.to_q")
    write(adapter, path, "diffusers" if kind == "with_up_bias" else "comfyui")
    (group,) = describe(str(path)).groups
    (update,) = adapter.updates.values()
    if "dora" in kind:
        assert (group.kind, group.norm) == ("dora", None)
    else:
        assert group.norm == pytest.approx(float(delta(update).norm()), rel=1e-5)


def test_what_is_odd_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    name = "transformer_blocks.0.attn.to_q"
    parts = {"down": torch.ones(100, 64), "up": torch.zeros(64, 100)}
    other = {"down": torch.ones(2, 64), "up": torch.ones(64, 2)}
    updates = {name: Update(parts, 100.0), "proj_out": Update(other, 0.0)}
    write(Adapter(updates), path, "comfyui")
    odd = describe(str(path)).odd
    assert odd == [
        f"1 of 2 layers have an update of zero ({name})",
        f"the rank is above the layer's width in 1 layers ({name})",
        "alpha is 0 in some layers: they do nothing",
    ]


def test_a_published_file_is_known_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "Qwen-Image-Lightning-8steps-V1.1-bf16.safetensors"
    write(make.adapter(only="to_q"), path, "lightning")
    assert describe(str(path)).sampling == LIGHTNING[8]


def test_a_bias_alone_has_a_norm(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(Adapter({"proj_out": Update({"bias": torch.full((64,), 0.5)})}), path, "comfyui")
    (group,) = describe(str(path)).groups
    assert (group.target, group.kind, group.blocks, group.norm) == ("proj_out", "full", "", 4.0)


def test_nothing_there() -> None:
    with pytest.raises(AdapterError, match="neither a file nor one of"):
        describe("ink")


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 3], "0-3"), ([7, 0, 1, 5], "0-1, 5, 7")]
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text
