"""Adapters keep contract 1: a picture with any of them has the same bits alone and in company.

And beside the weights = merged into them (1e-5), for every kind of update on every layer; the
weights themselves are never touched.
"""

import copy
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import danqing
from danqing import Pipeline, Request
from danqing.adapters import formats, inject
from danqing.adapters.linear import Adapted
from danqing.models.layout import Layout, Segment
from danqing.models.transformer import Transformer
from tests import tiny
from tests.adapters import files
from tests.equality.test_packs import hashes, partition


def attention(names: list[str]) -> list[str]:
    return [name for name in names if "attn." in name]


def write_adapters(folder: Path) -> dict[str, Path]:
    """Adapters of every kind, of awkward ranks and in several namings, by name."""
    every, table = files.matrices(), files.tables()
    plain = [name for name in every if name not in table]
    norms = [name for name in files.known() if name not in every]
    made = {
        "thin": (files.make("lora", plain, rank=1, alpha=0.5), "kohya"),
        "ink": (files.make("lora", files.SOME, alpha=2.0), "peft"),
        "odd": (files.make("lora_biased", attention(plain), rank=5), "comfy"),
        "wide": (files.make("lora", plain, rank=16), "lightning"),
        "wider": (files.make("lora", attention(plain), rank=20), "old diffusers"),
        "dora": (files.make("dora", plain), "lycoris"),
        "across": (files.make("dora_over_in", attention(plain)), "diffusers"),
        "kron": (files.make("lokr", plain), "lycoris"),
        "factors": (files.make("lokr_factored", plain), "bare"),
        "product": (files.make("loha", attention(plain)), "kohya"),
        "whole": (files.make("full", files.SOME) | files.make("full", norms), "comfy"),
        "biases": (files.make("bias", plain), "diffsynth"),
        "table": (files.make("lora", table, rank=3), "bare"),
        "table whole": (files.make("dora", table), "lycoris"),
        "all": (files.make("lora", every, rank=7), "kohya"),
    }
    return {
        name: files.write(folder / f"{name}.safetensors", files.tensors(layers, naming))
        for name, (layers, naming) in made.items()
    }


MIXES: list[dict[str, float]] = [
    {},
    {"ink": 0.8},
    {"thin": 1.0, "wide": -0.7},
    {"dora": 1.0, "wider": 0.5, "odd": 0.3},
    {"kron": 1.0, "table": 0.6},
    {"product": 0.9, "whole": -0.4, "biases": 0.5},
    {"table whole": -0.5, "across": 0.5, "factors": 1.0},
    {"all": 1.2, "table": -1.0},
]
REQUESTS = [
    Request("a red fox", seed=1, size=(64, 64), guidance=1.0, adapters=MIXES[0]),
    Request("a red fox", seed=2, size=(64, 48), guidance=4.0, adapters=MIXES[1]),
    Request("一只红色的狐狸", seed=1, size=(32, 96), guidance=3.0, adapters=MIXES[2]),
    Request("x", seed=9, size=(32, 32), sigmas=(0.8,), guidance=1.0, adapters=MIXES[3]),
    Request("a cat", seed=6, size=(48, 80), steps=4, guidance=1.0, adapters=MIXES[4]),
    Request("", seed=5, size=(32, 32), steps=1, guidance=2.5, adapters=MIXES[5]),
    Request("一只猫", seed=7, size=(64, 16), sigmas=(1.0, 0.9, 0.5), adapters=MIXES[6]),
    Request("two dogs", seed=11, size=(64, 64), steps=3, guidance=1.5, adapters=MIXES[7]),
]
SIZES = [(64, 48), (96, 32), (32, 48), (48, 32), (64, 48), (32, 32), (64, 16), (16, 64)]
SIGMAS = [1.0, 0.6, 0.0]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_adapters(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def pipe(tiny_model: Path, adapters: dict[str, Path]) -> Pipeline:
    """The tiny model with all the adapters under their names."""
    pipe = danqing.load(str(tiny_model), device="cpu")
    for name, path in adapters.items():
        pipe.adapters.add(name, path)
    return pipe


@pytest.fixture(scope="module")
def alone(pipe: Pipeline) -> list[str]:
    """The reference: every picture in a call of its own, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [hashes(pipe, [request])[0] for request in REQUESTS]
    finally:
        torch.set_num_threads(before)


# ---- the same bits alone and in company -------------------------------------------------------


def test_the_requests_are_eight_different_pictures(alone: list[str]) -> None:
    assert len(set(alone)) == len(REQUESTS) == 8


@pytest.mark.parametrize("place", range(1, 8))
def test_every_mix_changes_its_picture(pipe: Pipeline, alone: list[str], place: int) -> None:
    plain = Request(**{**vars(REQUESTS[place]), "adapters": {}})
    assert hashes(pipe, [plain])[0] != alone[place]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_eight_mixes_in_one_pack(pipe: Pipeline, alone: list[str], num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    assert hashes(pipe, REQUESTS) == alone


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("seed", range(2))
def test_any_partition_and_order(
    pipe: Pipeline, alone: list[str], seed: int, num_threads: int
) -> None:
    torch.set_num_threads(num_threads)
    for places in partition(list(range(len(REQUESTS))), random.Random(seed)):
        found = hashes(pipe, [REQUESTS[place] for place in places])
        assert found == [alone[place] for place in places]


def latents(pipe: Pipeline, places: list[int], guidance: float) -> list[Tensor]:
    """Through the public stage, each place with its own text, noise and adapters."""
    text = pipe.encode([REQUESTS[place].prompt for place in places])
    noise = [pipe.noise(place, SIZES[place]) for place in places]
    mixes = [MIXES[place] for place in places]
    return pipe.denoise(text, noise, SIGMAS, guidance, adapters=mixes)


@pytest.fixture(scope="module", params=[1.0, 3.0], ids=["plain", "guided"])
def apart(pipe: Pipeline, request: pytest.FixtureRequest) -> tuple[float, list[Tensor]]:
    """A guidance, and the latents of every place alone."""
    return request.param, [latents(pipe, [place], request.param)[0] for place in range(8)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("seed", range(2))
def test_latents_of_any_partition_and_order(
    pipe: Pipeline, apart: tuple[float, list[Tensor]], seed: int, num_threads: int
) -> None:
    torch.set_num_threads(num_threads)
    guidance, expected = apart
    for places in partition(list(range(8)), random.Random(seed)):
        found = latents(pipe, places, guidance)
        assert all(torch.equal(f, expected[p]) for f, p in zip(found, places, strict=True))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("size", [(16, 16), (32, 16), (16, 48)], ids=["1", "2", "3"])
def test_pictures_of_few_patches(pipe: Pipeline, size: tuple[int, int]) -> None:
    """Attention of so few queries is where the kernels like to choose another way."""
    text = pipe.encode([REQUESTS[place].prompt for place in range(8)])
    noise = [pipe.noise(seed, size) for seed in range(8)]
    torch.set_num_threads(1)
    both = zip(text, noise, MIXES, strict=True)
    alone = [pipe.denoise([t], [n], SIGMAS, adapters=mix)[0] for t, n, mix in both]
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        together = pipe.denoise(text, noise, SIGMAS, adapters=MIXES)
        assert all(map(torch.equal, together, alone)), num_threads


@pytest.mark.parametrize("name", ["ink", "dora", "table", "whole", "all"])
def test_neighbours_with_the_same_adapters_ride_in_one_product(pipe: Pipeline, name: str) -> None:
    """Three with them, one without, one with them at another strength."""
    text = pipe.encode(["a", "a red fox", "", "x", "一只猫"])
    noise = [pipe.noise(seed, size) for seed, size in enumerate(SIZES[:5])]
    mixes = [{name: 0.7}, {name: 0.7}, {name: 0.7}, {}, {name: 0.3}]
    together = pipe.denoise(text, noise, SIGMAS, adapters=mixes)
    for n, found in enumerate(together):
        one = pipe.denoise(text[n : n + 1], noise[n : n + 1], SIGMAS, adapters=mixes[n])[0]
        assert torch.equal(found, one)


# ---- the request ------------------------------------------------------------------------------


def painted(pipe: Pipeline, adapters: dict[str, float]) -> str:
    return hashes(pipe, [Request("a cat", seed=3, size=(48, 32), steps=2, adapters=adapters)])[0]


def denoised(pipe: Pipeline, adapters: dict[str, float]) -> Tensor:
    """Latents show differences that are lost when pixels are rounded."""
    noise = [pipe.noise(3, (48, 32))]
    return pipe.denoise(pipe.encode(["a cat"]), noise, SIGMAS, 2.0, adapters=adapters)[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_names_changes_nothing(pipe: Pipeline, seed: int) -> None:
    strengths = {"ink": 0.8, "dora": 0.5, "table": 1.0, "kron": -0.3, "all": 0.7, "wide": 0.8}
    names = random.Random(seed).sample(sorted(strengths), len(strengths))
    assert list(strengths) != names
    shuffled = {name: strengths[name] for name in names}
    assert torch.equal(denoised(pipe, shuffled), denoised(pipe, strengths))
    assert painted(pipe, shuffled) == painted(pipe, strengths)


@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_strength_zero_is_without(pipe: Pipeline, adapters: dict[str, Path], zero: float) -> None:
    assert torch.equal(denoised(pipe, dict.fromkeys(adapters, zero)), denoised(pipe, {}))
    assert painted(pipe, {"ink": 1.0, "table": zero}) == painted(pipe, {"ink": 1.0})


def test_a_name_and_its_file_are_the_same(pipe: Pipeline, adapters: dict[str, Path]) -> None:
    assert painted(pipe, {"ink": 0.8}) == painted(pipe, {str(adapters["ink"]): 0.8})


# ---- nothing stays behind ---------------------------------------------------------------------


def modules(network: nn.Module) -> list[tuple[str, int]]:
    return [(name, id(module)) for name, module in network.named_modules()]


def parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.clone() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("name", ["dora", "across", "whole", "biases", "table whole"])
def test_added_and_removed_is_never_added(
    tiny_model: Path, adapters: dict[str, Path], name: str
) -> None:
    pipe = danqing.load(str(tiny_model), device="cpu")
    network = pipe.model.transformer
    places, values = modules(network), parameters(network)
    before = painted(pipe, {})
    pipe.adapters.add("style", adapters[name])
    between = painted(pipe, {"style": 1.0})
    pipe.adapters.remove("style")
    assert painted(pipe, {}) == before != between
    assert modules(network) == places
    assert all(torch.equal(p, values[n]) for n, p in network.named_parameters())


def test_a_pass_that_fails_leaves_the_network_as_it_was(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = pipe.model.transformer
    places, before = modules(network), painted(pipe, {"all": 1.0})

    def fail(*_: object) -> Tensor:
        assert any(isinstance(module, Adapted) for module in network.modules())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(network.blocks[1].img.mlp_out, "forward", fail)
        with pytest.raises(KeyboardInterrupt):
            painted(pipe, {"all": 1.0})
    assert modules(network) == places
    assert painted(pipe, {"all": 1.0}) == before


def test_a_table_that_fails_leaves_the_network_as_it_was(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = pipe.model.transformer
    places = modules(network)

    def fail(*_: object) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(network.blocks[1].img.mod, "forward", fail)
    with pytest.raises(KeyboardInterrupt):
        painted(pipe, {"table": 0.123})
    assert modules(network) == places


def test_two_streams_by_turns(pipe: Pipeline, alone: list[str]) -> None:
    """A pack that waits between two steps has its adapters nowhere in the network."""
    *_, last = zip(*(pipe.stream([REQUESTS[place]]) for place in (6, 7)), strict=True)
    assert [result.recipe["pixels_sha256"] for result in last] == alone[6:]


# ---- beside the weights = merged into them ----------------------------------------------------

LAYOUT = Layout((Segment(4, 3, 7), Segment(2, 5, 9)))


@pytest.fixture(scope="module")
def network() -> Transformer:
    return tiny.transformer()


@torch.inference_mode()
def velocity(network: Transformer, mix: inject.Mix = ()) -> Tensor:
    patches, text = tiny.draw(22, 64), tiny.draw(16, 64, seed=2)
    table = inject.bake(network, [0.9, 0.4], mix)
    with inject.Injection(network, LAYOUT, [mix, mix]):
        return network(patches, text, LAYOUT, table, [0, 1])


def bound(network: Transformer, layers: files.Layers) -> inject.Bound:
    adapter = formats.parse(files.tensors(layers), {}, "made here")
    return inject.bind(adapter, network, files.known(), "")


@torch.no_grad()
def merged(network: Transformer, mixed: list[tuple[files.Layers, float]]) -> Transformer:
    """A copy with the adapters in its weights, made with the formulas below."""
    copied = copy.deepcopy(network)
    for layers, strength in mixed:
        for name, parts in layers.items():
            target = files.known()[name]
            ours, theirs = (n.get_submodule(target.ours) for n in (copied, network))
            size = len(theirs.weight) // target.parts
            rows = slice(target.index * size, (target.index + 1) * size)
            in_weight, in_bias = by_hand(parts, theirs.weight[rows].double())
            ours.weight[rows] += (strength * in_weight).float()
            if target.has_bias:
                ours.bias[rows] += (strength * in_bias).float()
    return copied


def by_hand(parts: files.Parts, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What an update adds to a weight and to its bias, as the papers write it, in float64."""
    p = {part: tensor.double() for part, tensor in parts.items()}
    ranks = [p[n].shape[0] for n in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b") if n in p]
    scale = p["alpha"] / ranks[0] if "alpha" in p and ranks else 1.0
    for half in ("lokr_w1", "lokr_w2"):
        if f"{half}_a" in p:
            p[half] = p[f"{half}_a"] @ p[f"{half}_b"]
    if "down" in p:
        moved = weight + scale * (p["up"] @ p["down"])
    elif "hada_w1_a" in p:
        first, second = (p[f"hada_w{n}_a"] @ p[f"hada_w{n}_b"] for n in (1, 2))
        moved = weight + scale * first * second
    elif "lokr_w1" in p:
        grid = torch.einsum("ab,cd->acbd", p["lokr_w1"], p["lokr_w2"])
        moved = weight + scale * grid.reshape(weight.shape)
    else:
        moved = weight + p.get("diff", 0.0)
    if "magnitude" in p:
        axis = 1 if p["magnitude"].ndim == 1 else 0
        norm = moved.square().sum(dim=axis, keepdim=True).sqrt()
        moved = moved / norm * p["magnitude"].reshape(norm.shape)
    return moved - weight, p.get("bias", torch.zeros(())) + scale * p.get("up_bias", 0.0)


def check_merged(network: Transformer, mixed: list[tuple[files.Layers, float]]) -> Tensor:
    """How far the adapters moved the velocity, if both ways agree."""
    found = velocity(network, tuple((bound(network, layers), s) for layers, s in mixed))
    torch.testing.assert_close(found, velocity(merged(network, mixed)), atol=1e-5, rtol=1e-5)
    return (found - velocity(network)).abs().max()


@pytest.mark.parametrize("kind", files.KINDS)
def test_every_kind_on_all_layers(network: Transformer, kind: str) -> None:
    layers = files.make(kind, files.matrices(), alpha=None if kind == "bias" else 2.0)
    assert check_merged(network, [(layers, -0.6)]) > 0.1


def test_gains_of_norms(network: Transformer) -> None:
    norms = [name for name in files.known() if name not in files.matrices()]
    assert len(norms) == 13
    assert check_merged(network, [(files.make("full", norms), 1.0)]) > 0.01


# The text of the last block gives keys and values, and nothing else of it is used.
UNUSED = {
    f"transformer_blocks.2.{name}"
    for name in (
        "attn.add_q_proj",
        "attn.norm_added_q",
        "attn.to_add_out",
        "txt_mlp.net.0.proj",
        "txt_mlp.net.2",
    )
}


@pytest.mark.parametrize("layer", files.known())
def test_every_layer_by_itself(network: Transformer, layer: str) -> None:
    kind = "lora_biased" if layer in files.matrices() else "full"
    moved = check_merged(network, [(files.make(kind, [layer]), 1.0)])
    assert (moved == 0) if layer in UNUSED else (moved > 1e-4)


def test_several_kinds_at_once(network: Transformer) -> None:
    """Each one is relative to the weights as they are, whatever the others do."""
    kinds = [("lora", 0.5), ("dora", 0.7), ("dora", -0.4), ("dora_over_in", 0.3), ("lokr", 1.0)]
    mixed = [
        (files.make(kind, files.matrices(), rank=n + 2), strength)
        for n, (kind, strength) in enumerate(kinds)
    ]
    check_merged(network, mixed)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_both_branches_of_guidance_have_the_adapters(pipe: Pipeline, guidance: float) -> None:
    names = files.matrices()
    mixed = [(files.make("lora", names, rank=7), 1.2), (files.make("dora", files.tables()), -0.5)]
    network = merged(pipe.model.transformer, mixed)
    other = Pipeline(replace(pipe.model, transformer=network), pipe.device, pipe.dtype)
    inputs = pipe.encode(["a cat"]), [pipe.noise(1, (48, 32))], SIGMAS, guidance
    found = pipe.denoise(*inputs, adapters={"all": 1.2, "table whole": -0.5})[0]
    torch.testing.assert_close(found, other.denoise(*inputs)[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, pipe.denoise(*inputs)[0], atol=0.1)
