"""Adapters in every naming: danqing against diffusers with PEFT, or, where that does not apply
the file (as of diffusers 0.42.1), against the oracle's network with its weights changed by hand.

The images of a pack differ in their adapters' strengths; the oracle meets them one by one.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from peft import (
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from danqing.adapters.store import Store
from danqing.denoising import Denoiser, Job
from danqing.errors import AdapterError
from danqing.models.layout import Segment
from danqing.models.transformer import Transformer

from . import reference
from .adapter_files import (
    APPLIED,
    DECOMPOSED,
    DIFFUSERS,
    DROPPED,
    KINDS,
    KOHYA,
    LIGHTNING,
    NORMS,
    RANK,
    REFUSED,
    STEMS,
    LoRA,
    LoRAs,
    Naming,
    Parts,
    all_linears,
    in_blocks,
    parts_tensors,
    random_loras,
    random_norms,
    random_parts,
    random_sizes,
    some,
    with_input_magnitudes,
    with_magnitudes,
    write,
)
from .compare import TENSORS, assert_close, difference
from .random_models import Pair
from .test_components import SIGMAS, GetPair, random_pack

STRENGTHS = (1.0, 0.6, -0.7, 0.0, 1.0)  # of a pack's images; the second and third are of one shape
PARTLY = (1.0, 1.0, 0.0, 0.0, 1.0)
Mix = dict[str, float]  # files, with their strengths
Oracle = QwenImageTransformer2DModel
Under = Callable[[Mix], Oracle]  # the oracle's network with a mix applied
Change = tuple[Tensor | None, Tensor | None]  # what is added to a weight and to its bias

by_name = {"ids": lambda naming: naming.name}
# PEFT's notes on a second adapter, and on biases beside lora_B, which it takes for damaged.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
    pytest.mark.filterwarnings(r"ignore:.*LoRA tensor\(s\) have invalid shape"),
]


# ---- both sides -------------------------------------------------------------------------------


class Image(NamedTuple):
    """What a network is shown of one image."""

    segment: Segment
    patches: Tensor
    text: Tensor
    sigma: float


def random_images(seed: int, config: Any) -> list[Image]:
    segments, patches, text = random_pack(seed, config.in_channels, config.joint_attention_dim)
    parts = patches.split([s.patches for s in segments]), text.split([s.text for s in segments])
    return list(map(Image, segments, *parts, SIGMAS))


@torch.no_grad()
def velocities(
    network: Transformer, store: Store, images: list[Image], mixes: list[Mix]
) -> list[Tensor]:
    """danqing's, of one pack in which every image has its own adapters and noise level."""
    jobs = [
        Job(i.patches, i.segment.rows, i.segment.columns, i.text, None, 1.0, [i.sigma, 0.0], mix)
        for i, mix in zip(images, map(store.mix, mixes), strict=True)
    ]
    for _ in Denoiser(network).run(jobs):
        pass
    return [job.velocity for job in jobs if job.velocity is not None]


def oracles(under: Under, images: list[Image], mixes: list[Mix]) -> list[Tensor]:
    """The oracle's, one by one."""
    return [
        reference.velocity(
            under(mix), i.patches, i.text, (i.segment.rows, i.segment.columns), i.sigma
        )
        for i, mix in zip(images, mixes, strict=True)
    ]


class Loaded:
    """The oracle's network with files loaded by its own pipeline."""

    def __init__(self, network: Oracle, *files: Path, copied: bool = True) -> None:
        self.plain = network
        parts = (None, None, None, None, deepcopy(network) if copied else network)
        self.pipeline = QwenImagePipeline(*parts)
        for file in files:
            self.pipeline.load_lora_weights(file, adapter_name=file.stem)

    def __call__(self, mix: Mix) -> Oracle:
        if not any(mix.values()):
            return self.plain
        names = [Path(file).stem for file in mix]
        self.pipeline.set_adapters(names, list(mix.values()))
        return self.pipeline.transformer


class ByHand:
    """The oracle's network with these changes added to its weights, for each file."""

    def __init__(self, network: Oracle, files: Mapping[Path, Mapping[str, Change]]) -> None:
        self.plain, self.changed = network, deepcopy(network)
        self.files = {str(file): changes for file, changes in files.items()}

    def __call__(self, mix: Mix) -> Oracle:
        for parameter, plain in zip(
            self.changed.parameters(), self.plain.parameters(), strict=True
        ):
            parameter.copy_(plain)
        for file, strength in mix.items():
            for layer, (weight, bias) in self.files[file].items():
                module = self.changed.get_submodule(layer)
                if weight is not None:
                    module.weight.add_(weight, alpha=strength)
                if bias is not None:
                    module.bias.add_(bias, alpha=strength)
        return self.changed


def assert_applied(pair: Pair, under: Under, mixes: list[Mix]) -> None:
    """danqing's velocities are the oracle's, which the adapters change visibly."""
    images = random_images(pair.spec.seed, pair.oracle.transformer.config)
    ours = velocities(pair.pipe.model.transformer, pair.pipe.adapters, images, mixes)
    theirs = oracles(under, images, mixes)
    plain = oracles(lambda _: pair.oracle.transformer, images[:1], mixes[:1])
    assert difference(theirs[0], plain[0]) > 0.05, "the adapters change too little to prove much"
    for mine, their in zip(ours, theirs, strict=True):
        assert_close(mine, their)


def strengths(file: Path, values: tuple[float, ...] = STRENGTHS) -> list[Mix]:
    return [{str(file): strength} for strength in values]


def blocks(pair: Pair) -> int:
    return pair.spec.transformer["num_layers"]


def random_update(pair: Pair, seed: int) -> dict[str, LoRA]:
    """Of some of all linear layers."""
    sizes = random_sizes(some(all_linears(blocks(pair)), seed), seed)
    return random_loras(pair.oracle.transformer, sizes, seed)


def lora_changes(network: nn.Module, loras: LoRAs) -> dict[str, Change]:
    found = {}
    for layer, lora in loras.items():
        delta = lora.scale * lora.up @ lora.down
        if lora.magnitude is not None:
            delta = decomposed(network.get_submodule(layer).weight, delta, lora.magnitude)
        found[layer] = (delta, None if lora.up_bias is None else lora.scale * lora.up_bias)
    return found


def decomposed(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA: the moved weight with these norms of its rows [out] or columns [1, in], less W."""
    moved = weight + delta
    if magnitude.shape == (1, weight.shape[1]):
        return moved / moved.norm(dim=0) * magnitude - weight
    return moved / moved.norm(dim=1)[:, None] * magnitude.reshape(-1, 1) - weight


# ---- what the oracle applies as well ----------------------------------------------------------


@pytest.mark.parametrize("naming", APPLIED, **by_name)
def test_velocity(pair_of: GetPair, tmp_path: Path, naming: Naming) -> None:
    assert_naming(pair_of(4), tmp_path, naming)


@pytest.mark.parametrize("seed", [0, 1, 10])
@pytest.mark.parametrize("naming", [DIFFUSERS, KOHYA], **by_name)
def test_velocity_of_other_models(
    pair_of: GetPair, tmp_path: Path, naming: Naming, seed: int
) -> None:
    assert_naming(pair_of(seed), tmp_path, naming)


def assert_naming(pair: Pair, folder: Path, naming: Naming) -> None:
    seed, network = pair.spec.seed, pair.oracle.transformer
    loras = naming.fitting(random_update(pair, seed), network, seed)
    file = write(folder / "some.safetensors", naming.tensors(loras))
    # PEFT takes a strength of DoRA into the norm; danqing is linear in it, as ComfyUI is.
    mixes = strengths(file, PARTLY if naming.magnitude else STRENGTHS)
    assert_applied(pair, Loaded(network, file), mixes)


@pytest.mark.parametrize("seed", [1, 9, 10])  # of two blocks, one, and four
def test_two_adapters(pair_of: GetPair, tmp_path: Path, seed: int) -> None:
    pair = pair_of(seed)
    first, second = random_update(pair, seed), random_update(pair, seed + 100)
    one = write(tmp_path / "one.safetensors", KOHYA.tensors(first))
    two = write(tmp_path / "two.safetensors", LIGHTNING.tensors(second))
    weights = [(1.0, 1.0), (0.8, -0.5), (-0.3, 0.7), (0.0, 0.9), (0.5, 0.0)]
    mixes = [{str(one): a, str(two): b} for a, b in weights]
    assert_applied(pair, Loaded(pair.oracle.transformer, one, two), mixes)


SETTINGS: list[dict[str, Any]] = [
    {
        "r": 4,
        "lora_alpha": 2,
        "rank_pattern": {"attn.to_q|attn.to_k": 8, "^proj_out": 2, r".*_mod\.1": 3},
        "alpha_pattern": {"to_q": 3, "^proj_out": 1, r"transformer_blocks.0..*mlp.net.2": 1.5},
    },
    {
        "r": 3,
        "lora_alpha": 4,
        "use_rslora": True,
        "rank_pattern": {"to_v": 5, "img_in": 7},
        "alpha_pattern": {"transformer_blocks.0.attn.to_out.0": 1, "to_out.0": 2},
    },
    {"r": 4, "lora_alpha": 6, "lora_bias": True},
    {"r": 4, "lora_alpha": 6, "use_dora": True},
]
each_settings = pytest.mark.parametrize("settings", SETTINGS)


@torch.no_grad()
def trained(network: nn.Module, seed: int) -> None:
    """Random updates in place of PEFT's initial ones."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "lora_magnitude_vector" in name:
            parameter.mul_(torch.empty_like(parameter).uniform_(0.7, 1.3, generator=generator))
        elif "lora_" in name:
            parameter.normal_(0, 0.5 * parameter.shape[-1] ** -0.5, generator=generator)


def mixes_of(file: Path, settings: dict[str, Any]) -> list[Mix]:
    return strengths(file, PARTLY if settings.get("use_dora") else STRENGTHS)


@each_settings
def test_as_diffusers_saves(pair_of: GetPair, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Settings in the file's metadata: their alpha counts, and their patterns of names."""
    pair = pair_of(4)
    network = deepcopy(pair.oracle.transformer)
    network.add_adapter(LoraConfig(**settings, target_modules=all_linears(blocks(pair))))
    trained(network, 3)
    QwenImagePipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(network),
        transformer_lora_adapter_metadata=network.peft_config["default"].to_dict(),
    )
    loaded = Loaded(pair.oracle.transformer, tmp_path)
    assert_applied(pair, loaded, mixes_of(tmp_path, settings))


def saved_by_peft(network: Oracle, config: PeftConfig, folder: Path) -> Path:
    """A folder in which the settings are a file of their own."""
    made = get_peft_model(deepcopy(network), config)
    trained(made, 3)
    made.save_pretrained(folder)
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {
        p.name for p in folder.iterdir()
    }
    return folder


class PeftLoaded:
    """The oracle's network with such a folder loaded by PEFT itself."""

    def __init__(self, network: Oracle, folder: Path) -> None:
        self.plain, self.name = network, str(folder)
        self.model = PeftModel.from_pretrained(deepcopy(network), folder)

    def __call__(self, mix: Mix) -> Oracle:
        if not any(mix.values()):
            return self.plain
        for module in self.model.modules():
            if isinstance(module, BaseTunerLayer):
                module.set_scale("default", mix[self.name])
        return self.model.get_base_model()


@each_settings
def test_as_peft_saves(pair_of: GetPair, tmp_path: Path, settings: dict[str, Any]) -> None:
    """diffusers does not apply such a folder."""
    pair = pair_of(10)
    config = LoraConfig(**settings, target_modules=all_linears(blocks(pair)))
    folder = saved_by_peft(pair.oracle.transformer, config, tmp_path)
    loaded = PeftLoaded(pair.oracle.transformer, folder)
    assert_applied(pair, loaded, mixes_of(folder, settings))
    assert not Loaded(pair.oracle.transformer, folder).pipeline.get_list_adapters()


@pytest.mark.parametrize(
    "config",
    [
        LoHaConfig(r=4, alpha=6, init_weights=False),
        LoKrConfig(r=4, alpha=6, init_weights=False),
        LoKrConfig(r=200, alpha=150, init_weights=False),  # PEFT scales whole matrices as well
    ],
    ids=["loha", "lokr", "lokr, whole"],
)
def test_other_kinds_as_peft_saves(pair_of: GetPair, tmp_path: Path, config: PeftConfig) -> None:
    pair = pair_of(10)
    named = replace(config, target_modules=set(all_linears(blocks(pair))))
    folder = saved_by_peft(pair.oracle.transformer, named, tmp_path)
    assert_applied(pair, PeftLoaded(pair.oracle.transformer, folder), strengths(folder))


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_that_changes_the_weights(pair_of: GetPair, tmp_path: Path, start: str) -> None:
    """PEFT takes the first update off the weights; the file has no trace of it but this setting."""
    pair = pair_of(10)
    config = LoraConfig(init_lora_weights=start, target_modules=["to_q", "to_v"])
    folder = saved_by_peft(pair.oracle.transformer, config, tmp_path)
    with pytest.raises(AdapterError):
        pair.pipe.adapters.mix({str(folder): 1.0})


# ---- what the oracle does not apply -----------------------------------------------------------


def by_hand(pair: Pair, file: Path, changes: Mapping[str, Change]) -> None:
    """danqing's velocities are those of the oracle's network with its weights changed."""
    under = ByHand(pair.oracle.transformer, {file: changes})
    assert_applied(pair, under, strengths(file))


@pytest.mark.parametrize("naming", DROPPED, **by_name)
def test_dropped_by_the_oracle(pair_of: GetPair, tmp_path: Path, naming: Naming) -> None:
    pair, seed = pair_of(1), 1
    network = pair.oracle.transformer
    loras = naming.fitting(random_update(pair, seed), network, seed)
    file = write(tmp_path / "some.safetensors", naming.tensors(loras))
    by_hand(pair, file, lora_changes(network, loras))
    assert not Loaded(network, file).pipeline.get_list_adapters(), "the oracle applies it by now"


@pytest.mark.parametrize("naming", REFUSED, **by_name)
def test_refused_by_the_oracle(pair_of: GetPair, tmp_path: Path, naming: Naming) -> None:
    pair, seed = pair_of(4), 4
    network = pair.oracle.transformer
    loras = naming.fitting(random_update(pair, seed), network, seed)
    file = write(tmp_path / "some.safetensors", naming.tensors(loras))
    by_hand(pair, file, lora_changes(network, loras))
    with pytest.raises((ValueError, IndexError)):
        Loaded(network, file)


@pytest.mark.parametrize("magnitudes", [with_magnitudes, with_input_magnitudes])
@pytest.mark.parametrize("naming", DECOMPOSED, **by_name)
def test_dora_scale(pair_of: GetPair, tmp_path: Path, naming: Naming, magnitudes: Any) -> None:
    """The oracle leaves it out and applies the rest; files come with it over either axis."""
    pair, seed = pair_of(1), 1
    network, plain = pair.oracle.transformer, random_update(pair, seed)
    loras = magnitudes(plain, network, seed)
    file = write(tmp_path / "some.safetensors", naming.tensors(loras))
    by_hand(pair, file, lora_changes(network, loras))
    shown = random_images(seed, network.config)[:1], strengths(file)[:1]
    (theirs,) = oracles(Loaded(network, file), *shown)
    (without,) = oracles(ByHand(network, {file: lora_changes(network, plain)}), *shown)
    assert difference(theirs, without) < TENSORS, "the oracle knows dora_scale by now"


# ---- LyCORIS ----------------------------------------------------------------------------------


def parts_delta(parts: Parts) -> Tensor | None:
    """What LyCORIS and ComfyUI add to a weight for these parts."""
    if "hada_w1_a" in parts:
        first = parts["hada_w1_a"] @ parts["hada_w1_b"]
        second = parts["hada_w2_a"] @ parts["hada_w2_b"]
        return parts["alpha"] / RANK * first * second
    if "lokr_w1" in parts and "lokr_w2" in parts:
        return torch.kron(parts["lokr_w1"], parts["lokr_w2"])  # alpha counts for products only
    if "alpha" in parts:
        first, second = (
            parts[n] if n in parts else parts[f"{n}_a"] @ parts[f"{n}_b"]
            for n in ("lokr_w1", "lokr_w2")
        )
        return parts["alpha"] / RANK * torch.kron(first, second)
    return parts.get("diff", parts.get("w_norm"))


def parts_changes(network: nn.Module, found: Mapping[str, Parts]) -> dict[str, Change]:
    changes: dict[str, Change] = {}
    for layer, parts in found.items():
        delta = parts_delta(parts)
        if "dora_scale" in parts and delta is not None:
            delta = decomposed(network.get_submodule(layer).weight, delta, parts["dora_scale"])
        changes[layer] = (delta, parts.get("diff_b"))
    return changes


def assert_parts(pair: Pair, stem: str, found: Mapping[str, Parts], folder: Path) -> None:
    network = pair.oracle.transformer
    file = write(folder / "some.safetensors", parts_tensors(stem, found))
    by_hand(pair, file, parts_changes(network, found))
    with pytest.raises(ValueError, match=r"should be empty|Invalid LoRA"):
        Loaded(network, file)


CASES = [(kind, STEMS[0]) for kind in KINDS]
CASES += [(kind, stem) for kind in ("lokr, products", "full") for stem in STEMS[1:]]


@pytest.mark.parametrize(("kind", "stem"), CASES)
def test_lycoris(pair_of: GetPair, tmp_path: Path, kind: str, stem: str) -> None:
    pair = pair_of(10)
    layers = some(all_linears(blocks(pair)), 1)
    found = random_parts(pair.oracle.transformer, layers, KINDS[kind], 2)
    assert_parts(pair, stem, found, tmp_path)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_lycoris_decomposed(pair_of: GetPair, tmp_path: Path, kind: str, dim: int) -> None:
    pair = pair_of(4)
    network, layers = pair.oracle.transformer, some(all_linears(blocks(pair)), 3)
    found = random_parts(network, layers, KINDS[kind], 4)
    generator = torch.Generator().manual_seed(5)
    for layer, parts in found.items():
        norms = random_norms(network.get_submodule(layer).weight, dim, generator)
        parts["dora_scale"] = norms.unsqueeze(dim)
    assert_parts(pair, STEMS[0], found, tmp_path)


@pytest.mark.parametrize("part", ["w_norm", "diff"])
def test_gains_of_norms(pair_of: GetPair, tmp_path: Path, part: str) -> None:
    """LyCORIS and ComfyUI call them differently."""

    def gain(weight: Tensor, generator: torch.Generator) -> Parts:
        return {part: 0.5 * torch.randn(len(weight), generator=generator)}

    pair = pair_of(10)
    layers = ["txt_norm", *in_blocks(blocks(pair), NORMS)]
    found = random_parts(pair.oracle.transformer, layers, gain, 6)
    assert_parts(pair, STEMS[0] if part == "w_norm" else STEMS[1], found, tmp_path)


def test_biases_alone(pair_of: GetPair, tmp_path: Path) -> None:
    def bias(weight: Tensor, generator: torch.Generator) -> Parts:
        return {"diff_b": 0.3 * torch.randn(len(weight), generator=generator)}

    pair = pair_of(10)
    found = random_parts(pair.oracle.transformer, all_linears(blocks(pair)), bias, 7)
    assert_parts(pair, STEMS[1], found, tmp_path)


@pytest.mark.parametrize("seed", [4, 9])
def test_adapters_of_all_kinds_add_up(pair_of: GetPair, tmp_path: Path, seed: int) -> None:
    """In one layer: no adapter scales what another one adds. (In PEFT a DoRA does that to those
    loaded before it.)"""
    pair = pair_of(seed)
    network, layers = pair.oracle.transformer, all_linears(blocks(pair))
    sizes = random_sizes(layers, seed)
    changes: dict[Path, dict[str, Change]] = {}
    for n, naming in enumerate((LIGHTNING, DECOMPOSED[0], DECOMPOSED[1])):
        loras = naming.fitting(random_loras(network, sizes, seed + n), network, seed + n)
        file = write(tmp_path / f"{n}.safetensors", naming.tensors(loras))
        changes[file] = lora_changes(network, loras)
    for kind in ("loha", "full"):
        found = random_parts(network, layers, KINDS[kind], seed)
        file = write(tmp_path / f"{kind}.safetensors", parts_tensors(STEMS[0], found))
        changes[file] = parts_changes(network, found)
    chance = Random(seed)
    mixes = [{str(file): chance.uniform(-0.5, 0.7) for file in changes} for _ in STRENGTHS]
    assert_applied(pair, ByHand(network, changes), mixes)
