"""What is written is read again; what does not fit is named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danqing.errors import WeightsError
from danqing.weights.export import save_component
from danqing.weights.loader import listed
from danqing.weights.model import build
from tests import tiny
from tests.weights.edit import Tensors, edit, loaded, rename, same, weights_file

COMPONENTS = ["text_encoder", "transformer", "vae"]
GONE = "transformer_blocks.1.attn.to_k.weight"
TIME = "time_text_embed.timestep_embedder.linear_1.weight"


def fails(folder: Path, component: str, *needles: str) -> None:
    """Loading is an error of one line that holds all of ``needles``."""
    with pytest.raises(WeightsError) as caught:
        loaded(folder, component)
    message = str(caught.value)
    assert "\n" not in message
    assert [needle for needle in needles if needle not in message] == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_round_trip(tiny_copy: Path, component: str) -> None:
    network = tiny.networks(seed=1)[component]
    assert not same(loaded(tiny_copy, component), network)
    save_component(component, network, tiny_copy, dtype=torch.float32)
    assert same(loaded(tiny_copy, component), network)


@pytest.mark.parametrize(
    "values", [{"attn_scales": (1.0, 0.25)}, {"dim_mult": (1, 2), "temperal_downsample": (True,)}]
)
def test_round_trip_of_other_vaes(tiny_copy: Path, values: dict) -> None:
    """Attention between the down blocks is flat in the file, and other kernels are not."""
    network = tiny.vae(**values)
    tiny.change(tiny_copy / "vae" / "config.json", **values)
    save_component("vae", network, tiny_copy, dtype=torch.float32)
    assert same(loaded(tiny_copy, "vae"), network)


def test_round_trip_with_the_additional_condition(tiny_copy: Path) -> None:
    network = tiny.transformer(use_additional_t_cond=True)
    tiny.change(tiny_copy / "transformer" / "config.json", use_additional_t_cond=True)
    save_component("transformer", network, tiny_copy, dtype=torch.float32)
    assert same(loaded(tiny_copy, "transformer"), network)


def test_fused_rows_are_query_key_value(tiny_model: Path) -> None:
    tensors = load_file(weights_file(tiny_model, "transformer"))
    fused = loaded(tiny_model, "transformer").blocks[2].txt.qkv.weight
    parts = [f"transformer_blocks.2.attn.add_{n}_proj.weight" for n in "qkv"]
    assert torch.equal(fused, torch.cat([tensors[name] for name in parts]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("component", COMPONENTS)
def test_weights_are_converted(tiny_model: Path, component: str, dtype: torch.dtype) -> None:
    assert same(loaded(tiny_model, component, dtype), loaded(tiny_model, component).to(dtype))


def test_both_text_namings_load(tiny_copy: Path) -> None:
    new = loaded(tiny_copy, "text_encoder")
    rename(tiny_copy, "text_encoder", lambda n: n.replace("model.language_model.", "model."))
    assert same(loaded(tiny_copy, "text_encoder"), new)


@pytest.mark.parametrize("extra", ["visual.x.weight", "model.visual.y", "lm_head.weight"])
def test_what_text_does_not_need_is_skipped(tiny_copy: Path, extra: str) -> None:
    before = loaded(tiny_copy, "text_encoder")
    edit(tiny_copy, "text_encoder", lambda tensors: tensors.update({extra: torch.ones(3)}))
    assert same(loaded(tiny_copy, "text_encoder"), before)


def test_a_missing_tensor_is_named(tiny_copy: Path) -> None:
    edit(tiny_copy, "transformer", lambda tensors: tensors.pop(GONE))
    fails(tiny_copy, "transformer", GONE, str(tiny_copy / "transformer"), "lacks")


def test_many_missing_tensors_are_counted(tiny_copy: Path) -> None:
    tiny.change(tiny_copy / "transformer" / "config.json", num_layers=4)
    fails(tiny_copy, "transformer", "transformer_blocks.3.", "and 29 more tensors")


def test_an_unexpected_tensor_is_named(tiny_copy: Path) -> None:
    path = edit(tiny_copy, "vae", lambda tensors: tensors.update(surprise=torch.ones(2)))
    fails(tiny_copy, "vae", "surprise", str(path), "does not expect")


MISSHAPEN: list[tuple[str, str, Callable[[torch.Tensor], torch.Tensor], str, str]] = [
    ("transformer", GONE, lambda t: t[:32], "[32, 64]", "[64, 64]"),
    ("transformer", TIME, lambda t: t.T, "[256, 64]", "[64, 256]"),
    ("transformer", "img_in.bias", lambda t: t[None], "[1, 64]", "[64]"),
    ("text_encoder", "model.language_model.norm.weight", lambda t: t[1:], "[63]", "[64]"),
    ("vae", "decoder.conv_in.weight", lambda t: t[:, :, -1], "[64, 16, 3, 3]", "[64, 16, 3, 3, 3]"),
    ("vae", "encoder.norm_out.gamma", lambda t: t[..., 0], "[64, 1, 1]", "[64, 1, 1, 1]"),
]


@pytest.mark.parametrize(("component", "name", "cut", "found", "expected"), MISSHAPEN)
def test_a_misshapen_tensor_is_named(
    tiny_copy: Path,
    component: str,
    name: str,
    cut: Callable[[torch.Tensor], torch.Tensor],
    found: str,
    expected: str,
) -> None:
    def change(tensors: Tensors) -> None:
        tensors[name] = cut(tensors[name]).contiguous()

    path = edit(tiny_copy, component, change)
    fails(tiny_copy, component, f"{path}: {name} has shape {found}, expected {expected}")


def test_early_time_slices_count_for_nothing(tiny_copy: Path) -> None:
    """A single frame meets the last slice only."""
    before = loaded(tiny_copy, "vae")

    def change(tensors: Tensors) -> None:
        for tensor in tensors.values():
            if tensor.ndim == 5 and tensor.shape[2] == 3:
                tensor[:, :, :2] = 7

    edit(tiny_copy, "vae", change)
    assert same(loaded(tiny_copy, "vae"), before)


def test_names_are_listed_up_to_three() -> None:
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more tensors"


def test_networks_are_built_without_memory(tiny_model: Path) -> None:
    networks = build(tiny_model)
    assert {p.device.type for n in networks.values() for p in n.parameters()} == {"meta"}
