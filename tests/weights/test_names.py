"""The key tables are read in both directions: they must invert."""

import pytest
import torch
from torch import nn

from danqing.models.text_encoder import TextEncoder, TextEncoderConfig
from danqing.models.transformer import Transformer, TransformerConfig
from danqing.models.vae import VAE, VAEConfig
from danqing.weights.names import NAMES

BUILDERS = {
    "transformer": lambda: Transformer(
        TransformerConfig(num_layers=11, use_additional_t_cond=True)
    ),
    "text_encoder": lambda: TextEncoder(TextEncoderConfig(num_hidden_layers=11)),
    "text_encoder_old": lambda: TextEncoder(TextEncoderConfig(num_hidden_layers=11)),
    "vae": lambda: VAE(VAEConfig()),
}
# The published names of a transformer block, with what stands for weight and bias.
BLOCK = [
    *(f"attn.{n}.{p}" for n in ("to_q", "to_k", "to_v") for p in ("weight", "bias")),
    *(f"attn.add_{n}_proj.{p}" for n in "qkv" for p in ("weight", "bias")),
    *(f"attn.{n}.{p}" for n in ("to_out.0", "to_add_out") for p in ("weight", "bias")),
    *(f"attn.norm_{n}.weight" for n in ("q", "k", "added_q", "added_k")),
    *(f"{s}_mod.1.{p}" for s in ("img", "txt") for p in ("weight", "bias")),
    *(f"{s}_mlp.net.0.proj.{p}" for s in ("img", "txt") for p in ("weight", "bias")),
    *(f"{s}_mlp.net.2.{p}" for s in ("img", "txt") for p in ("weight", "bias")),
]


def parameters(component: str) -> dict[str, nn.Parameter]:
    with torch.device("meta"):
        return dict(BUILDERS[component]().named_parameters())


@pytest.mark.parametrize("component", NAMES)
def test_every_parameter_has_names_of_its_own(component: str) -> None:
    names = NAMES[component]
    back = {theirs: ours for ours in parameters(component) for theirs in names.in_file(ours)}
    fused = sum(len(names.in_file(ours)) for ours in parameters(component))
    assert len(back) == fused
    assert set(back.values()) == set(parameters(component))
    assert not any(names.skipped(theirs) for theirs in back)


def test_a_transformer_block_has_the_published_names() -> None:
    ours = [name for name in parameters("transformer") if name.startswith("blocks.10.")]
    theirs = [name for part in ours for name in NAMES["transformer"].in_file(part)]
    assert len(BLOCK) == 32
    assert sorted(theirs) == sorted(f"transformer_blocks.10.{name}" for name in BLOCK)


@pytest.mark.parametrize(
    ("component", "ours", "theirs"),
    [
        ("transformer", "norm_out.bias", ("norm_out.linear.bias",)),
        (
            "transformer",
            "time_in.linear_2.weight",
            ("time_text_embed.timestep_embedder.linear_2.weight",),
        ),
        (
            "transformer",
            "time_in.additional.weight",
            ("time_text_embed.addition_t_embedding.weight",),
        ),
        ("text_encoder", "norm.weight", ("model.language_model.norm.weight",)),
        ("text_encoder_old", "norm.weight", ("model.norm.weight",)),
        ("vae", "quant_conv.bias", ("quant_conv.bias",)),
    ],
)
def test_published_names(component: str, ours: str, theirs: tuple[str, ...]) -> None:
    assert NAMES[component].in_file(ours) == theirs


@pytest.mark.parametrize(
    ("stream", "parts"),
    [("img", ["to_q", "to_k", "to_v"]), ("txt", ["add_q_proj", "add_k_proj", "add_v_proj"])],
)
def test_fused_parts_keep_their_order(stream: str, parts: list[str]) -> None:
    names = NAMES["transformer"].in_file(f"blocks.3.{stream}.qkv.bias")
    assert [name.split(".")[3] for name in names] == parts


def test_a_name_without_a_rule_is_a_mistake_of_the_program() -> None:
    with pytest.raises(AssertionError, match=r"blocks\.x"):
        NAMES["transformer"].in_file("blocks.x.img.out.weight")


@pytest.mark.parametrize(
    ("component", "name", "skipped"),
    [
        ("text_encoder", "model.visual.blocks.0.attn.qkv.weight", True),
        ("text_encoder_old", "visual.merger.mlp.0.bias", True),
        ("text_encoder", "lm_head.weight", True),
        ("text_encoder", "model.audio.weight", False),
        ("text_encoder", "lm_head.bias", False),
        ("vae", "decoder.up_blocks.0.upsamplers.0.time_conv.weight", True),
        ("vae", "decoder.conv_in.weight_scale", False),
        ("transformer", "guidance_in.weight", False),
    ],
)
def test_only_what_is_known_is_skipped(component: str, name: str, skipped: bool) -> None:
    assert NAMES[component].skipped(name) is skipped
