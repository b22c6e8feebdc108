"""The layers that can be adapted: their names in files, and where they are in our network."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danqing.adapters.adapter import Adapter, Update
from danqing.adapters.targets import check_fit, published, targets
from danqing.errors import AdapterError
from danqing.models.transformer import Transformer
from tests import tiny
from tests.adapters import files
from tests.adapters.files import IMG_MOD, NORM_K, TO_Q
from tests.weights.edit import loaded, weights_file


def test_targets_are_the_layers_of_a_published_file(tiny_model: Path) -> None:
    """Each with its own rows of our matrix, bit for bit."""
    network = loaded(tiny_model, "transformer")
    published_file = load_file(weights_file(tiny_model, "transformer"))
    known = targets(network)
    weights = {name.removesuffix(".weight") for name in published_file if name.endswith(".weight")}
    assert set(known) == weights
    for name, target in known.items():
        layer = network.get_submodule(target.ours)
        size = len(layer.weight) // target.parts
        rows = slice(target.index * size, (target.index + 1) * size)
        assert torch.equal(layer.weight[rows], published_file[f"{name}.weight"])
        assert tuple(layer.weight[rows].shape) == target.weight
        assert target.has_bias == (f"{name}.bias" in published_file)
        if target.has_bias:
            assert torch.equal(layer.bias[rows], published_file[f"{name}.bias"])


@pytest.mark.parametrize("name", files.known())
def test_a_name_is_read_with_dots_and_with_underscores(name: str) -> None:
    far = name.replace("transformer_blocks.2.", "transformer_blocks.59.")
    for spelled in (name, name.replace(".", "_")):
        assert published(spelled) == name
    assert published(far.replace(".", "_")) == far


@pytest.mark.parametrize(
    "name",
    [
        "",
        "transformer_blocks.0",
        "transformer_blocks..attn.to_q",
        "transformer_blocks.0.attn.to_q.",
        "transformer_blocks.0.attn.to_x",
        "transformer_blocks.0.attn.to_q\n",
        "transformer-blocks-0-attn-to-q",
        "time_text_embed.addition_t_embedding",
        "blocks.0.img.qkv",
    ],
)
def test_other_names_are_no_layers(name: str) -> None:
    assert published(name) is None


def test_a_row_that_is_added_to_the_time_is_no_layer() -> None:
    known = targets(tiny.transformer(use_additional_t_cond=True))
    assert set(known) == set(files.known())


# ---- whether an adapter fits ------------------------------------------------------------------


def adapter(layer: str, **parts: torch.Tensor) -> Adapter:
    return Adapter({layer: Update(parts)})


def refused(adapter: Adapter, network: Transformer | None = None) -> str:
    known = files.known() if network is None else targets(network)
    with pytest.raises(AdapterError) as caught:
        check_fit(adapter, known, "ink", "mini")
    message = str(caught.value)
    assert message.startswith("adapter ink does not fit mini: ")
    assert message.endswith("; it was made for another model")
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("kind", files.KINDS)
def test_every_kind_fits_every_layer_of_its_shape(kind: str) -> None:
    names = files.matrices() if kind != "full" else list(files.known())
    updates = {layer: Update(parts) for layer, parts in files.make(kind, names).items()}
    check_fit(Adapter(updates), files.known(), "ink", "mini")


@pytest.mark.parametrize("kind", [kind for kind in files.KINDS if kind != "bias"])
def test_an_adapter_of_another_width(kind: str) -> None:
    message = refused(adapter(TO_Q, **files.KINDS[kind]((128, 64), 3)))
    assert f"{TO_Q} is for a weight [128, 64], here [64, 64]" in message


def test_an_adapter_of_the_published_width() -> None:
    message = refused(adapter(TO_Q, **files.lora((3072, 3072), 3, 1)))
    assert f"{TO_Q} is for a weight [3072, 3072], here [64, 64]" in message


def test_an_adapter_of_more_blocks() -> None:
    update = Update(files.lora((64, 64), 3))
    message = refused(Adapter({f"transformer_blocks.{n}.attn.to_q": update for n in range(60)}))
    assert "the model has no layer transformer_blocks.3.attn.to_q, " in message
    assert message.count("the model has no layer") == 10
    assert " and 47 more; it was" in message


MISFITS = [
    (adapter(NORM_K, **files.lora((32, 32), 3)), f"{NORM_K} is for a weight [32, 32], here [32]"),
    (adapter(NORM_K, diff=torch.ones(64)), f"{NORM_K} is for a weight [64], here [32]"),
    (adapter(TO_Q, diff=torch.ones(64)), f"{TO_Q} is for a weight [64], here [64, 64]"),
    (adapter(NORM_K, bias=torch.ones(32)), f"{NORM_K} has a bias [32] for a weight [32]"),
    (adapter(IMG_MOD, bias=torch.ones(64)), f"{IMG_MOD} has a bias [64] for a weight [384, 64]"),
    (
        adapter(IMG_MOD, **files.lora((384, 64), 3), up_bias=torch.ones(64)),
        f"{IMG_MOD} has a up_bias [64] for a weight [384, 64]",
    ),
    (
        adapter(IMG_MOD, **files.lora((384, 64), 3), magnitude=torch.ones(64)),
        f"{IMG_MOD} has a magnitude [64] for a weight [384, 64]",
    ),
    (
        adapter(IMG_MOD, **files.lora((384, 64), 3), magnitude=torch.ones(1, 384)),
        f"{IMG_MOD} has a magnitude [1, 384] for a weight [384, 64]",
    ),
    (
        adapter(NORM_K, diff=torch.ones(32), magnitude=torch.ones(32)),
        f"{NORM_K} has a magnitude [32] for a weight [32]",
    ),
]


@pytest.mark.parametrize(("misfit", "fault"), MISFITS, ids=[fault for _, fault in MISFITS])
def test_what_does_not_fit_its_layer(misfit: Adapter, fault: str) -> None:
    assert fault in refused(misfit)
