"""Adapters as they are published for Qwen-Image: whole lists of keys, and Lightning to the picture.

The files themselves are not here: lists, ranks and alphas are those of the tools and makers.
"""

import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from torch import Tensor, nn

from danqing.adapters.adapter import Adapter
from danqing.adapters.formats import parse
from danqing.adapters.store import Store
from danqing.adapters.targets import check_fit, targets
from danqing.models.transformer import Transformer, TransformerConfig
from danqing.sampling import latents
from danqing.sampling.schedule import schedule
from danqing.types import Request
from danqing.weights import loader

from . import reference
from .adapter_files import (
    AI_TOOLKIT,
    ATTENTION,
    DIFFSYNTH,
    KOHYA,
    LIGHTNING,
    MLP,
    MODULATION,
    LoRA,
    Naming,
    all_linears,
    in_blocks,
    random_loras,
    random_sizes,
    write,
)
from .compare import PICTURES, assert_close
from .random_models import Pair
from .test_adapters import Loaded, assert_applied, oracles, random_images, strengths, velocities
from .test_components import GetPair
from .test_published_width import oracle_on

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")


@dataclass(frozen=True)
class Published:
    """Which layers of each block an adapter changes, and how."""

    naming: Naming
    modules: tuple[str, ...]
    rank: int
    alpha: float | None
    tensors: int  # of 60 blocks


# Of DiffSynth's distilled adapter, and of its examples.
DISTILLED = (*ATTENTION, "img_mlp.net.2", "txt_mlp.net.2", *MODULATION)
LIGHTNINGS = Published(LIGHTNING, ATTENTION + MLP, 64, 8, 2160)
OTHERS = [
    Published(KOHYA, ATTENTION + MLP, 32, 16, 2160),  # musubi leaves modulation out by default
    Published(DIFFSYNTH, DISTILLED, 32, None, 1440),
    Published(AI_TOOLKIT, ATTENTION + MLP + MODULATION, 16, None, 1680),
]
each_other = pytest.mark.parametrize("published", OTHERS, ids=lambda p: p.naming.name)
alpha_types = pytest.mark.parametrize("alpha_type", [torch.int64, torch.float64])


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, int]]:
    """Of every weight of Qwen-Image, as the oracle has them."""
    with init_empty_weights():
        network = QwenImageTransformer2DModel()
    linears = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear)}
    return {name: tuple(linear.weight.shape) for name, linear in linears.items()}


def cheap(*shape: int) -> Tensor:
    """Zeros that take no memory."""
    return torch.zeros(()).expand(shape)


def with_alphas(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {n: t.to(dtype) if n.endswith(".alpha") else t for n, t in tensors.items()}


def parsed(tensors: Mapping[str, Tensor]) -> Adapter:
    """The adapter, which must fit the published transformer."""
    network = loader.build(lambda: Transformer(TransformerConfig()))
    adapter = parse(tensors, {}, "list")
    check_fit(adapter, targets(network), "list", "Qwen-Image")
    return adapter


# ---- whole lists ------------------------------------------------------------------------------


def tensors_of(published: Published, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    layers, rank = in_blocks(60, published.modules), published.rank
    loras = {n: LoRA(cheap(rank, shapes[n][1]), cheap(shapes[n][0], rank)) for n in layers}
    if published.alpha:
        loras = {n: replace(lora, alpha=published.alpha) for n, lora in loras.items()}
    return published.naming.tensors(loras)


def assert_whole(published: Published, tensors: Mapping[str, Tensor]) -> None:
    """Every tensor has found its place."""
    assert len(tensors) == published.tensors
    adapter = parsed(tensors)
    assert adapter.updates.keys() == set(in_blocks(60, published.modules))
    scale = published.alpha / published.rank if published.alpha else 1.0
    assert {(u.rank, u.scale) for u in adapter.updates.values()} == {(published.rank, scale)}


@each_other
def test_a_whole_list(published: Published, shapes: dict[str, tuple[int, int]]) -> None:
    assert_whole(published, tensors_of(published, shapes))


@alpha_types
def test_lightnings_list(alpha_type: torch.dtype, shapes: dict[str, tuple[int, int]]) -> None:
    tensors = with_alphas(tensors_of(LIGHTNINGS, shapes), alpha_type)
    assert sum(t.numel() for t in tensors.values()) == 424_673_280 + 720
    assert_whole(LIGHTNINGS, tensors)


def test_every_linear_layer_has_a_name(shapes: dict[str, tuple[int, int]]) -> None:
    assert set(all_linears(60)) == set(shapes)
    loras = {n: LoRA(cheap(1, width), cheap(out, 1), 1.0) for n, (out, width) in shapes.items()}
    for naming in (LIGHTNING, KOHYA):
        assert parsed(naming.tensors(loras)).updates.keys() == set(shapes)


def test_simpletuners_list(shapes: dict[str, tuple[int, int]]) -> None:
    """LyCORIS' LoKr with a factor of 16, both matrices whole."""
    layers = in_blocks(60, ATTENTION + MLP)
    tensors = {}
    for layer in layers:
        out, width = shapes[layer]
        stem = f"lycoris_{layer.replace('.', '_')}"
        tensors[f"{stem}.lokr_w1"] = cheap(16, 16)
        tensors[f"{stem}.lokr_w2"] = cheap(out // 16, width // 16)
        tensors[f"{stem}.alpha"] = torch.tensor(10000.0)  # counts for products only
    adapter = parsed(tensors)
    assert adapter.updates.keys() == set(layers)
    assert {u.scale for u in adapter.updates.values()} == {1.0}


# ---- two blocks -------------------------------------------------------------------------------


def random_tensors(published: Published, network: nn.Module) -> dict[str, Tensor]:
    layers = in_blocks(len(network.transformer_blocks), published.modules)
    sizes = dict.fromkeys(layers, (published.rank, published.alpha or published.rank))
    loras = published.naming.fitting(random_loras(network, sizes, 5), network, 5)
    return published.naming.tensors(loras)


def assert_same_velocity(pair: Pair, file: Path) -> None:
    assert pair.spec.transformer["num_layers"] == 2
    assert_applied(pair, Loaded(pair.oracle.transformer, file), strengths(file))


@each_other
def test_velocity(pair_of: GetPair, tmp_path: Path, published: Published) -> None:
    pair = pair_of(1)
    tensors = random_tensors(published, pair.oracle.transformer)
    assert_same_velocity(pair, write(tmp_path / "some.safetensors", tensors))


@alpha_types
def test_velocity_of_lightning(pair_of: GetPair, tmp_path: Path, alpha_type: torch.dtype) -> None:
    pair = pair_of(1)
    tensors = with_alphas(random_tensors(LIGHTNINGS, pair.oracle.transformer), alpha_type)
    assert_same_velocity(pair, write(tmp_path / "some.safetensors", tensors))


# ---- the published width ----------------------------------------------------------------------


def windows_network(config: TransformerConfig) -> Transformer:
    """Weights of 0.02 and gains near 1 that are windows of one buffer: little memory to fill."""
    network = loader.build(lambda: Transformer(config))
    parameters = list(network.named_parameters())
    longest = max(parameter.numel() for _, parameter in parameters) + 1009 * len(parameters)
    buffer = torch.empty(longest).normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    for n, (name, parameter) in enumerate(parameters):
        window = buffer[1009 * n :][: parameter.numel()].view(parameter.shape)
        gain = parameter.ndim == 1 and name.endswith("weight")
        loader.assign(network, name, window + 1 if gain else window)
    return network


def test_velocity_at_the_published_width(tmp_path: Path) -> None:
    network = windows_network(TransformerConfig(num_layers=2))
    oracle = oracle_on(network)
    loras = random_loras(oracle, random_sizes(all_linears(2), 7), 7)
    file = write(tmp_path / "some.safetensors", LIGHTNING.tensors(loras))
    images, mixes = random_images(7, network.config)[:2], strengths(file, (1.0, -0.7))
    plain = oracles(lambda _: oracle, images[:1], mixes[:1])
    ours = velocities(network, Store(network, "wide", tmp_path), images, mixes)
    theirs = oracles(Loaded(oracle, file, copied=False), images, mixes)
    assert (theirs[0] - plain[0]).std() > 0.05
    for mine, their in zip(ours, theirs, strict=True):
        assert_close(mine, their)


# ---- from the prompt to the picture -----------------------------------------------------------

PROMPTS = ["two foxes on a hill, 一只猫 by the sea, and more words than the other has", "一只狐狸"]
SIZE = (80, 48)
FILE = "Qwen-Image-Lightning-4steps-V2.0-bf16.safetensors"


def with_adapter(pair: Pair, file: Path, **schedule: Any) -> QwenImagePipeline:
    """The oracle's pipeline with the file loaded, under a changed schedule."""
    scheduled = reference.with_schedule(pair.oracle, **schedule)
    network = deepcopy(pair.oracle.transformer)
    pipeline = QwenImagePipeline(**{**scheduled.components, "transformer": network})
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(file, adapter_name="some")
    return pipeline


def with_lightning(pair: Pair, file: Path) -> QwenImagePipeline:
    """As its makers run it: a constant shift of 3, no terminal stretch."""
    return with_adapter(
        pair, file, base_shift=math.log(3), max_shift=math.log(3), shift_terminal=None
    )


def painted(pipeline: QwenImagePipeline, noise: Iterable[Tensor], **options: Any) -> Tensor:
    width, height = SIZE
    return pipeline(
        prompt=PROMPTS,
        latents=torch.stack([latents.pack(n) for n in noise]),
        width=width,
        height=height,
        num_inference_steps=4,
        **options,
    ).images


def assert_same_latents(ours: list[Tensor], plain: list[Tensor], theirs: Tensor) -> None:
    """``plain`` are those without the adapter."""
    found, without = (torch.stack([latents.pack(n) for n in some]) for some in (ours, plain))
    assert (found - without).std() > 0.05
    assert_close(found, theirs, PICTURES)


@pytest.fixture
def lightning(pair_of: GetPair, tmp_path: Path) -> tuple[Pair, Path]:
    pair = pair_of(3)
    return pair, write(tmp_path / FILE, random_tensors(LIGHTNINGS, pair.oracle.transformer))


def test_latents(lightning: tuple[Pair, Path]) -> None:
    pair, file = lightning
    noise = [pair.pipe.noise(seed, SIZE) for seed in (3, 4)]
    pipeline = with_lightning(pair, file)
    theirs = painted(pipeline, noise, true_cfg_scale=1.0, output_type="latent")
    job = pair.pipe.encode(PROMPTS), noise, [1.0, 0.9, 0.75, 0.5, 0.0]
    ours = pair.pipe.denoise(*job, adapters={str(file): 1.0})
    assert_same_latents(ours, pair.pipe.denoise(*job), theirs)


def test_pictures(lightning: tuple[Pair, Path]) -> None:
    """The request says nothing of how to sample: the file's name does."""
    pair, file = lightning
    requests = [
        Request(p, seed=s, size=SIZE, adapters={str(file): 1.0}) for s, p in enumerate(PROMPTS)
    ]
    noise = [pair.pipe.noise(request.seed, SIZE) for request in requests]
    pipeline = with_lightning(pair, file)
    theirs = painted(pipeline, noise, true_cfg_scale=1.0, output_type="pt")
    for result, picture in zip(pair.pipe.generate(requests), theirs, strict=True):
        bytes_CHW = torch.from_numpy(np.array(result.image)).permute(2, 0, 1).float()
        assert bytes_CHW.std() > 10
        assert (bytes_CHW - picture * 255).abs().max() <= 0.5 + 255 * PICTURES


def test_both_branches_of_guidance_are_adapted(pair_of: GetPair, tmp_path: Path) -> None:
    """A style adapter, under the model's own schedule."""
    pair, negative = pair_of(3), ["a blue cat in the rain"]
    tensors = random_tensors(OTHERS[2], pair.oracle.transformer)
    file = write(tmp_path / "style.safetensors", tensors)
    pipeline = with_adapter(pair, file)
    pipeline.set_adapters("some", 0.8)
    noise = [pair.pipe.noise(seed, SIZE) for seed in (5, 6)]
    theirs = painted(
        pipeline, noise, true_cfg_scale=4.0, negative_prompt=negative * 2, output_type="latent"
    )
    sigmas = schedule(4, SIZE[0] // 16 * (SIZE[1] // 16), pair.pipe.model.schedule)
    job = pair.pipe.encode(PROMPTS), noise, sigmas, 4.0, pair.pipe.encode(negative) * 2
    ours = pair.pipe.denoise(*job, adapters={str(file): 0.8})
    assert_same_latents(ours, pair.pipe.denoise(*job), theirs)
