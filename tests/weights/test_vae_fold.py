"""The shapes in the published file, which are three-dimensional only where time is looked at."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danqing.weights.export import save_component
from danqing.weights.vae_fold import fold, unfold
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
    flat = tiny.draw(4, 3, 3, 3)
    full = unfold("decoder.conv_in.weight", flat)
    assert full[:, :, :2].abs().max() == 0
    assert torch.equal(full[:, :, 2], flat)


@pytest.mark.parametrize("name", SHAPES)
def test_folding_inverts_unfolding(name: str) -> None:
    published = SHAPES[name]
    ours = tiny.draw(*published)
    flat = fold(ours)
    assert flat.ndim <= 4
    assert torch.equal(fold(unfold(name, flat)), flat)
    assert tuple(unfold(name, flat).shape) == published
