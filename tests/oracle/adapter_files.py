"""Adapter files in every naming that is about, all written from the same random updates.

The keys are spelled out here as each tool writes them and owe nothing to danqing's own tables, so
a name that is wrong there cannot hide. Axes: R rank.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

ATTENTION = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
)
MLP = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")
MODULATION = ("img_mod.1", "txt_mod.1")
OUTSIDE = (
    "img_in",
    "txt_in",
    "proj_out",
    "norm_out.linear",
    "time_text_embed.timestep_embedder.linear_1",
    "time_text_embed.timestep_embedder.linear_2",
)
NORMS = ("attn.norm_q", "attn.norm_k", "attn.norm_added_q", "attn.norm_added_k")


def in_blocks(blocks: int, modules: Iterable[str]) -> list[str]:
    modules = tuple(modules)
    return [f"transformer_blocks.{i}.{module}" for i in range(blocks) for module in modules]


def all_linears(blocks: int) -> list[str]:
    return [*OUTSIDE, *in_blocks(blocks, ATTENTION + MLP + MODULATION)]


def some(layers: Iterable[str], seed: int) -> list[str]:
    """A random part of them: tools differ in what they train."""
    chance = Random(seed)
    return [layer for layer in layers if chance.random() < 0.7]


# ---- low-rank updates -------------------------------------------------------------------------


@dataclass(frozen=True)
class LoRA:
    """What a file says about one layer: down [R, in], up [out, R], and what some tools add."""

    down: Tensor
    up: Tensor
    alpha: float | None = None
    magnitude: Tensor | None = None  # DoRA: [out], or [1, in]
    up_bias: Tensor | None = None  # [out]

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


LoRAs = Mapping[str, LoRA]
Sizes = Mapping[str, tuple[int, float]]  # rank and alpha of each layer


def random_sizes(layers: Iterable[str], seed: int) -> dict[str, tuple[int, float]]:
    """Every layer with a rank and an alpha of its own."""
    chance = Random(seed)
    ranks = {layer: chance.choice((1, 2, 3, 4, 7, 8, 16)) for layer in layers}
    return {n: (rank, rank * chance.choice((0.25, 0.5, 0.75, 1, 2))) for n, rank in ranks.items()}


def random_loras(network: nn.Module, sizes: Sizes, seed: int) -> dict[str, LoRA]:
    """Every update is about half of its weight."""
    generator = Generator().manual_seed(seed)
    found = {}
    for layer, (rank, alpha) in sizes.items():
        out, width = network.get_submodule(layer).weight.shape
        down = torch.randn(rank, width, generator=generator) * width**-0.5
        up = torch.randn(out, rank, generator=generator) * 0.5 * rank**0.5 / alpha
        found[layer] = LoRA(down, up, alpha)
    return found


def without_alpha(loras: LoRAs) -> dict[str, LoRA]:
    """The same updates as a file has them that does not state alpha."""
    return {n: replace(lora, up=lora.scale * lora.up, alpha=None) for n, lora in loras.items()}


def random_norms(weight: Tensor, dim: int, generator: Generator) -> Tensor:
    """The weight's norms over ``dim``, each up to a third off: magnitudes of DoRA."""
    norms = weight.norm(dim=dim)
    return norms * torch.empty_like(norms).uniform_(0.7, 1.3, generator=generator)


def with_magnitudes(loras: LoRAs, network: nn.Module, seed: int) -> dict[str, LoRA]:
    """Of the rows, as nearly all tools take them."""
    generator = Generator().manual_seed(seed)
    weights = {layer: network.get_submodule(layer).weight for layer in loras}
    norms = {layer: random_norms(weight, 1, generator) for layer, weight in weights.items()}
    return {layer: replace(lora, magnitude=norms[layer]) for layer, lora in loras.items()}


def with_input_magnitudes(loras: LoRAs, network: nn.Module, seed: int) -> dict[str, LoRA]:
    """Of the columns, as older versions of LyCORIS took them."""
    generator = Generator().manual_seed(seed)
    weights = {layer: network.get_submodule(layer).weight for layer in loras}
    norms = {layer: random_norms(weight, 0, generator)[None] for layer, weight in weights.items()}
    return {layer: replace(lora, magnitude=norms[layer]) for layer, lora in loras.items()}


def with_up_biases(loras: LoRAs, seed: int) -> dict[str, LoRA]:
    generator = Generator().manual_seed(seed)
    biases = {n: torch.randn(len(lora.up), generator=generator) for n, lora in loras.items()}
    return {n: replace(lora, up_bias=0.3 * biases[n]) for n, lora in loras.items()}


@dataclass(frozen=True)
class Naming:
    """Keys as one tool writes them: ``stem``, a dot, and one of the other texts.

    ``{layer}`` in the stem is the layer's name with dots, ``{flat}`` with underscores. What is
    none is not written.
    """

    name: str
    stem: str
    pair: tuple[str, str]
    alpha: str | None = None
    magnitude: str | None = None
    up_bias: str | None = None

    def fitting(self, loras: LoRAs, network: nn.Module, seed: int) -> dict[str, LoRA]:
        """The updates with all that this naming can say, and without what it cannot."""
        found = dict(loras) if self.alpha else without_alpha(loras)
        if self.magnitude:
            found = with_magnitudes(found, network, seed)
        return with_up_biases(found, seed) if self.up_bias else found

    def tensors(self, loras: LoRAs) -> dict[str, Tensor]:
        return {
            f"{keyed(self.stem, layer)}.{key}": tensor
            for layer, lora in loras.items()
            for key, tensor in self._parts(lora).items()
        }

    def _parts(self, lora: LoRA) -> dict[str, Tensor]:
        alpha = None if lora.alpha is None else torch.tensor(lora.alpha)
        magnitude = lora.magnitude
        if self.magnitude == "dora_scale" and magnitude is not None and magnitude.ndim == 1:
            magnitude = magnitude[:, None]  # PEFT writes a vector, LyCORIS a matrix
        keys = (*self.pair, self.alpha, self.magnitude, self.up_bias)
        values = (lora.down, lora.up, alpha, magnitude, lora.up_bias)
        found = {}
        for key, value in zip(keys, values, strict=True):
            assert (key is None) == (value is None), f"{self.name} cannot say that"
            if key is not None and value is not None:
                found[key] = value
        return found


def keyed(stem: str, layer: str) -> str:
    return stem.format(layer=layer, flat=layer.replace(".", "_"))


def write(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


A_B = ("lora_A.weight", "lora_B.weight")
NAMED_A_B = ("lora_A.default.weight", "lora_B.default.weight")
DOWN_UP = ("lora_down.weight", "lora_up.weight")
OLD_DOWN_UP = ("lora.down.weight", "lora.up.weight")
OLDER_DOWN_UP = ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight")
MAGNITUDE = "lora_magnitude_vector"

DIFFUSERS = Naming("diffusers", "transformer.{layer}", A_B)
KOHYA = Naming("kohya, musubi", "lora_unet_{flat}", DOWN_UP, "alpha")
LIGHTNING = Naming("Lightning", "{layer}", DOWN_UP, "alpha")
DIFFSYNTH = Naming("DiffSynth", "{layer}", NAMED_A_B)
AI_TOOLKIT = Naming("ai-toolkit, ComfyUI", "diffusion_model.{layer}", A_B)
LYCORIS = Naming("LyCORIS, SimpleTuner", "lycoris_{flat}", DOWN_UP, "alpha")

# The oracle applies these as it should,
APPLIED = [
    DIFFUSERS,
    KOHYA,
    LIGHTNING,
    DIFFSYNTH,
    AI_TOOLKIT,
    Naming("diffusers, older", "transformer.{layer}", OLD_DOWN_UP),
    Naming("diffusers, DoRA", "transformer.{layer}", A_B, magnitude=MAGNITUDE),
    Naming("diffusers, DoRA module", "transformer.{layer}", A_B, magnitude=f"{MAGNITUDE}.weight"),
    Naming("diffusers, bias of lora_B", "transformer.{layer}", A_B, up_bias="lora_B.bias"),
    Naming("ComfyUI, A/B, alpha", "diffusion_model.{layer}", A_B, "alpha"),
    Naming("ComfyUI, down/up", "diffusion_model.{layer}", DOWN_UP),
    Naming("ComfyUI, down/up, alpha", "diffusion_model.{layer}", DOWN_UP, "alpha"),
    Naming("kohya without alpha", "lora_unet_{flat}", DOWN_UP),
    Naming("no prefix, A/B, alpha", "{layer}", A_B, "alpha"),
]
# takes these without an error and does not apply them,
DROPPED = [
    Naming("no prefix, A/B", "{layer}", A_B),
    Naming("no prefix, down/up", "{layer}", DOWN_UP),
    Naming("PEFT", "base_model.model.{layer}", A_B),
]
# cannot read these,
REFUSED = [
    LYCORIS,
    Naming("PEFT, named adapter", "base_model.model.{layer}", NAMED_A_B),
    Naming("PEFT, alpha", "base_model.model.{layer}", A_B, "alpha"),
    Naming("DiffSynth, pipeline", "pipe.dit.{layer}", NAMED_A_B),
    Naming("DiffSynth, DoRA", "{layer}", NAMED_A_B, magnitude=f"{MAGNITUDE}.default"),
    Naming("diffusers, alpha", "transformer.{layer}", A_B, "alpha"),
    Naming("diffusers, down/up", "transformer.{layer}", DOWN_UP),
    Naming("diffusers, oldest", "transformer.{layer}", OLDER_DOWN_UP),
    Naming("ComfyUI, checkpoint", "model.diffusion_model.{layer}", DOWN_UP, "alpha"),
    Naming("ComfyUI, bias of lora_B", "diffusion_model.{layer}", A_B, up_bias="lora_B.bias"),
    Naming("OneTrainer", "lora_transformer_{flat}", DOWN_UP, "alpha"),
]
# and reads these without their magnitudes.
DECOMPOSED = [
    Naming("ComfyUI, DoRA", "diffusion_model.{layer}", DOWN_UP, "alpha", "dora_scale"),
    Naming("kohya, DoRA", "lora_unet_{flat}", DOWN_UP, "alpha", "dora_scale"),
]


# ---- other updates, in the names of LyCORIS --------------------------------------------------

Parts = dict[str, Tensor]  # of one layer, by what stands behind its name
Make = Callable[[Tensor, Generator], Parts]  # from the layer's weight
RANK, ALPHA = 4, 3.0


def loha(weight: Tensor, generator: Generator) -> Parts:
    out, width = weight.shape
    shapes = {"w1_a": (out, RANK), "w1_b": (RANK, width)}
    shapes |= {"w2_a": (out, RANK), "w2_b": (RANK, width)}
    parts = {f"hada_{n}": torch.randn(s, generator=generator) for n, s in shapes.items()}
    parts["hada_w1_b"] *= 0.5 * width**-0.5 / ALPHA
    return {**parts, "alpha": torch.tensor(ALPHA)}


def lokr(weight: Tensor, generator: Generator, *, whole: str) -> Parts:
    """``whole`` names the factors that are not products: "12", "1", "2" or ""."""
    out, width = weight.shape
    parts: Parts = {"alpha": torch.tensor(ALPHA)}
    for half, (rows, columns) in {"1": (4, 2), "2": (out // 4, width // 2)}.items():
        if half in whole:
            parts[f"lokr_w{half}"] = torch.randn(rows, columns, generator=generator)
        else:
            parts[f"lokr_w{half}_a"] = torch.randn(rows, RANK, generator=generator) * RANK**-0.5
            parts[f"lokr_w{half}_b"] = torch.randn(RANK, columns, generator=generator)
    parts["lokr_w1" if "1" in whole else "lokr_w1_a"] *= 0.5 * width**-0.5
    return parts


def full(weight: Tensor, generator: Generator) -> Parts:
    """A matrix and a vector for its bias, without alpha."""
    difference = 0.5 * torch.randn(weight.shape, generator=generator) * weight.shape[-1] ** -0.5
    return {"diff": difference, "diff_b": 0.3 * torch.randn(weight.shape[0], generator=generator)}


KINDS: dict[str, Make] = {
    "loha": loha,
    "lokr": lambda w, g: lokr(w, g, whole="12"),
    "lokr, first whole": lambda w, g: lokr(w, g, whole="1"),
    "lokr, second whole": lambda w, g: lokr(w, g, whole="2"),
    "lokr, products": lambda w, g: lokr(w, g, whole=""),
    "full": full,
}
STEMS = ["lycoris_{flat}", "diffusion_model.{layer}", "lora_unet_{flat}", "{layer}"]


def random_parts(
    network: nn.Module, layers: Iterable[str], make: Make, seed: int
) -> dict[str, Parts]:
    generator = Generator().manual_seed(seed)
    return {layer: make(network.get_submodule(layer).weight, generator) for layer in layers}


def parts_tensors(stem: str, parts: Mapping[str, Parts]) -> dict[str, Tensor]:
    return {
        f"{keyed(stem, layer)}.{part}": tensor
        for layer, of_layer in parts.items()
        for part, tensor in of_layer.items()
    }
