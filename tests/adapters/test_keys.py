"""Keys of every naming that is about, and keys that are none of ours."""

import pytest
from torch import Tensor

from danqing.adapters import keys
from danqing.adapters.refusal import refusal
from danqing.errors import AdapterError
from tests.adapters import files
from tests.adapters.files import NAMINGS, TO_Q

REFUSE = refusal("ink")
FLAT = TO_Q.replace(".", "_")


def refused(*texts: str) -> str:
    with pytest.raises(AdapterError) as caught:
        keys.understand(texts, REFUSE)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ---- what is understood -----------------------------------------------------------------------


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("layer", files.known())
def test_every_layer_in_every_naming(layer: str, naming: str) -> None:
    for part in ("down", "up", "alpha", "magnitude", "diff", "bias", "lokr_w1", "hada_w2_b"):
        key = keys.read_key(NAMINGS[naming].key(layer, part))
        assert key is not None
        assert (key.layer, key.part, key.prefix) == (layer, part, NAMINGS[naming].prefix)


READ = [
    (f"{TO_Q}.lora_A", "", "down", None),
    (f"{TO_Q}.lora_A.default", "", "down", "default"),
    (f"{TO_Q}.lora_A.my-style_2.weight", "", "down", "my-style_2"),
    (f"{TO_Q}.lora_B.default.weight", "", "up", "default"),
    (f"{TO_Q}.lora_B.bias", "", "up_bias", None),
    (f"{TO_Q}.lora_B.default.bias", "", "up_bias", "default"),
    (f"{TO_Q}.lora_linear_layer.down.weight", "", "down", None),
    (f"{TO_Q}.lora_linear_layer.up.weight", "", "up", None),
    (f"{TO_Q}.lora_magnitude_vector", "", "magnitude", None),
    (f"{TO_Q}.lora_magnitude_vector.default.weight", "", "magnitude", "default"),
    (f"{TO_Q}.lokr_w2_b.default", "", "lokr_w2_b", "default"),
    (f"{TO_Q}.w_norm", "", "diff", None),
    (f"{TO_Q}.b_norm", "", "bias", None),
    (f"base_model.model.transformer.{TO_Q}.lora_A.weight", "base_model.model.transformer.", "down",
     None),
    (f"model.diffusion_model.{TO_Q}.lora_up.weight", "model.diffusion_model.", "up", None),
    (f"lora_transformer_{FLAT}.lora_up.weight", "lora_transformer_", "up", None),
    (f"lycoris_{FLAT}.hada_w1_a", "lycoris_", "hada_w1_a", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "prefix", "part", "infix"), READ)
def test_a_key(text: str, prefix: str, part: str, infix: str | None) -> None:
    assert keys.read_key(text) == keys.Key(text, prefix, TO_Q, part, infix)


@pytest.mark.parametrize(
    ("name", "prefix", "rest"),
    [
        ("img_in", "", "img_in"),
        ("transformer.img_in", "transformer.", "img_in"),
        ("transformer_blocks.0", "", "transformer_blocks.0"),
        ("pipe.dit.lora_unet_img_in", "pipe.dit.lora_unet_", "img_in"),
        ("lycoris_lora_unet_img_in", "lycoris_", "lora_unet_img_in"),
    ],
)
def test_prefixes_are_taken_off(name: str, prefix: str, rest: str) -> None:
    assert keys.strip(name) == (prefix, rest)


DESCRIBED = {
    "peft": "PEFT (base_model.model.*, lora_A/lora_B)",
    "diffusers": "diffusers (transformer.*, lora_A/lora_B)",
    "comfy": "ComfyUI (diffusion_model.*, lora_A/lora_B)",
    "bare": "PEFT (no prefix, lora_A/lora_B)",
    "lightning": "Lightning (no prefix, lora_down/lora_up)",
    "kohya": "kohya (lora_unet_*, lora_down/lora_up)",
    "lycoris": "LyCORIS (lycoris_*, lora_down/lora_up)",
    "old diffusers": "diffusers (transformer.*, lora.down/up)",
    "diffsynth": "DiffSynth (pipe.dit.*, lora_A/lora_B)",
}


def described(named: dict[str, Tensor]) -> str:
    return keys.describe(keys.understand(named, REFUSE))


@pytest.mark.parametrize("naming", DESCRIBED)
def test_a_naming_in_words(naming: str) -> None:
    assert described(files.tensors(files.make(), naming)) == DESCRIBED[naming]


def test_kinds_in_words() -> None:
    lokr, loha = files.make("lokr", [TO_Q]), files.make("loha", ["img_in"])
    mixed = files.tensors(lokr, "lycoris") | files.tensors(loha, "lycoris")
    assert described(mixed) == "LyCORIS (lycoris_*, LoKr, LoHa)"


def test_several_prefixes_in_words() -> None:
    mixed = files.tensors(files.make("lora", ["img_in"]), "peft")
    mixed |= files.tensors(files.make("lora", ["txt_in"]), "bare")
    assert described(mixed) == "mixed (no prefix and base_model.model.*, lora_A/lora_B)"


# ---- what is not ------------------------------------------------------------------------------

UNKNOWN = [
    "",
    "weight",
    TO_Q,
    f"{TO_Q}.weight",
    f"{TO_Q}.lora_C.weight",
    f"{TO_Q}.lora_A.bias",
    f"{TO_Q}.lora_A.a.b.weight",
    f"{TO_Q}.lora_down",
    f"{TO_Q}.alpha.weight",
    f"{TO_Q}x.lora_A.weight",
    f"x.{TO_Q}.lora_A.weight",
    f" {TO_Q}.lora_A.weight",
    f"{TO_Q}.lora_A.weight\n",
    f"{TO_Q}.lokr_t2",
    "transformer_blocks.-1.attn.to_q.lora_A.weight",
    "transformer_blocks.x.attn.to_q.lora_A.weight",
    "transformer_blocks.12345.attn.to_q.lora_A.weight",
    "transformer_blocks.٣.attn.to_q.lora_A.weight",
    "transformer_blocks.0.attn.lora_A.weight",
    "time_text_embed.addition_t_embedding.lora_A.weight",
]


@pytest.mark.parametrize("text", UNKNOWN, ids=ascii)
def test_a_key_that_is_no_layers(text: str) -> None:
    assert keys.read_key(text) is None
    with pytest.raises(AdapterError, match="has 1 keys that match no layer of Qwen-Image"):
        keys.understand([f"{TO_Q}.lora_A.weight", text], REFUSE)


OTHERS = [
    ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "FLUX"),
    ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "FLUX or HunyuanVideo"),
    ("diffusion_model.single_blocks.3.linear1.lora_A.weight", "FLUX or HunyuanVideo"),
    ("lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight", "Stable Diffusion"),
    ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", "Stable Diffusion"),
    ("unet.down_blocks.1.attentions.0.proj_in.lora_A.weight", "Stable Diffusion"),
    ("diffusion_model.blocks.0.cross_attn.k.lora_A.weight", "Wan"),
    ("lora_unet_blocks_0_cross_attn_k.lora_down.weight", "Wan"),
    ("diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight", "Stable Diffusion 3"),
    ("diffusion_model.layers.0.feed_forward.w1.lora_A.weight", "Z-Image or Lumina"),
]


@pytest.mark.parametrize(("text", "model"), OTHERS)
def test_another_networks_adapter_is_known_by_its_keys(text: str, model: str) -> None:
    message = refused(text)
    assert f"(they look like {model}): {text}" in message


def test_layers_that_are_ours_do_not_hide_the_others() -> None:
    """FLUX has blocks of the same name and others beside them."""
    message = refused(f"transformer.{TO_Q}.lora_A.weight", OTHERS[0][0])
    assert "has 1 keys that match no layer of Qwen-Image (they look like FLUX)" in message


def test_at_most_ten_are_listed_and_all_are_counted() -> None:
    message = refused(*(f"layer{n:02}.lora_A.weight" for n in range(123)))
    assert message.startswith("adapter ink has 123 keys that match no layer of Qwen-Image: layer00")
    assert message.endswith("layer09.lora_A.weight and 113 more")


TEXT_ENCODERS = [
    "text_encoder.model.layers.0.self_attn.q_proj.lora_A.weight",
    "text_encoders.qwen.layers.0.lora_down.weight",
    "lora_te_model_layers_0_self_attn_q_proj.lora_down.weight",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    "base_model.model.text_encoder.layers.0.lora_A.weight",
    "text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
]


@pytest.mark.parametrize("text", TEXT_ENCODERS)
def test_the_text_encoders_keys_are_refused_by_name(text: str) -> None:
    message = refused(f"{TO_Q}.lora_A.weight", text)
    assert "changes the text encoder, which danqing leaves as it is (remove these" in message
    assert message.endswith(f": {text}")


def test_several_adapters_in_one_file_are_refused() -> None:
    message = refused(f"{TO_Q}.lora_A.one.weight", f"{TO_Q}.lora_A.two.weight")
    assert "holds several adapters in one file (split it): one, two" in message


def test_no_tensors_are_no_adapter() -> None:
    assert "holds no tensor; it is not an adapter" in refused()


def test_a_key_with_a_line_break_is_told_in_one_line() -> None:
    assert "first" in refused("first\nsecond\r\x1b[2Jthird")
