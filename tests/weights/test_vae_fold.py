"""The shapes in the published file, which are three-dimensional only where time is looked at."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danqing.weights.export import save_component
from danqing.weights.model import open_model
from danqing.weights.vae_fold import flat, fold, unfold
from tests import tiny
from tests.weights.edit import weights_file

SHAPES = {
    "encoder.conv_in.weight": (16, 3, 3, 3, 3),
    "encoder.conv_in.bias": (16,),
    "encoder.down_blocks.0.norm1.gamma": (16, 1, 1, 1),
    "encoder.down_blocks.1.norm.gamma": (16, 1, 1),
    "encoder.down_blocks.1.to_qkv.weight": (48, 16, 1, 1),
    "encoder.down_blocks.1.proj.weight": (16, 16, 1, 1),
    "encoder.down_blocks.2.resample.1.weight": (16, 16, 3, 3),
    "encoder.down_blocks.3.conv_shortcut.weight": (32, 16, 1, 1, 1),
    "encoder.mid_block.attentions.0.norm.gamma": (64, 1, 1),
    "encoder.mid_block.attentions.0.to_qkv.weight": (192, 64, 1, 1),
    "encoder.norm_out.gamma": (64, 1, 1, 1),
    "quant_conv.weight": (32, 32, 1, 1, 1),
    "post_quant_conv.weight": (16, 16, 1, 1, 1),
    "decoder.mid_block.resnets.1.conv2.weight": (64, 64, 3, 3, 3),
    "decoder.up_blocks.0.upsamplers.0.resample.1.weight": (32, 64, 3, 3),
    "decoder.up_blocks.3.resnets.1.norm2.gamma": (16, 1, 1, 1),
    "decoder.conv_out.weight": (3, 16, 3, 3, 3),
}


def test_published_shapes(tmp_path: Path) -> None:
    """With attention between the down blocks as well."""
    save_component("vae", tiny.vae(attn_scales=(1.0,)), tmp_path)
    found = {n: tuple(t.shape) for n, t in load_file(weights_file(tmp_path, "vae")).items()}
    assert {name: found.get(name) for name in SHAPES} == SHAPES


def test_what_a_single_frame_never_meets_is_zero() -> None:
    plane = tiny.draw(4, 3, 3, 3)
    full = unfold("decoder.conv_in.weight", plane)
    assert full[:, :, :2].abs().max() == 0
    assert torch.equal(full[:, :, 2], plane)


@pytest.mark.parametrize("name", SHAPES)
def test_folding_inverts_unfolding(name: str) -> None:
    published = SHAPES[name]
    ours = tiny.draw(*published)
    plane = fold(ours)
    assert plane.ndim <= 4
    assert torch.equal(fold(unfold(name, plane)), plane)
    assert torch.equal(fold(flat(name, plane)), plane)
    assert tuple(unfold(name, plane).shape) == published


def test_a_flat_file_is_opened_as_the_same_model(tiny_copy: Path) -> None:
    """With a third of the bytes in its 3x3 kernels, and without convolutions over time."""
    device, dtype = torch.device("cpu"), torch.float32
    whole = open_model("whole", tiny_copy, device, dtype)
    before = weights_file(tiny_copy, "vae").stat().st_size
    save_component("vae", whole.vae, tiny_copy, dtype=dtype, flat=True)
    assert weights_file(tiny_copy, "vae").stat().st_size < before / 2
    names = load_file(weights_file(tiny_copy, "vae"))
    assert {t.shape[2] for t in names.values() if t.ndim == 5} == {1}
    assert not [name for name in names if "time_conv" in name]
    thin = open_model("thin", tiny_copy, device, dtype)
    for (name, own), (_, theirs) in zip(
        thin.vae.named_parameters(), whole.vae.named_parameters(), strict=True
    ):
        assert torch.equal(own, theirs), name
