"""Small adapters for the tiny model: random numbers, every kind of update, every naming.

An adapter here is ``{layer: {part: tensor}}``: published names of layers, and parts as
``danqing.adapters.adapter.Update`` names them, ``alpha`` among them.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors.torch import save_file
from torch import Tensor

from danqing.adapters.targets import Target, targets
from tests import tiny

Parts = dict[str, Tensor]
Layers = dict[str, Parts]

TO_Q = "transformer_blocks.0.attn.to_q"
ADD_V = "transformer_blocks.1.attn.add_v_proj"
NORM_K = "transformer_blocks.1.attn.norm_k"
MLP = "transformer_blocks.1.img_mlp.net.0.proj"
MLP_OUT = "transformer_blocks.2.txt_mlp.net.2"
IMG_MOD = "transformer_blocks.0.img_mod.1"
SOME = (TO_Q, ADD_V, MLP)


@cache
def known() -> dict[str, Target]:
    """Every layer of the tiny transformer that can be adapted."""
    return targets(tiny.transformer())


def matrices() -> list[str]:
    return [name for name, target in known().items() if len(target.weight) == 2]


def tables() -> list[str]:
    """The layers that make the modulation table."""
    marks = ("_mod.", "time_text_embed", "norm_out")
    return [name for name in matrices() if any(mark in name for mark in marks)]


# ---- kinds ------------------------------------------------------------------------------------


def lora(shape: tuple[int, ...], seed: int, rank: int = 4) -> Parts:
    down = tiny.draw(rank, shape[1], seed=seed) / shape[1] ** 0.5
    return {"down": down, "up": 0.4 * tiny.draw(shape[0], rank, seed=seed + 1) / rank**0.5}


def dora(shape: tuple[int, ...], seed: int, rank: int = 4) -> Parts:
    magnitude = 0.6 + 0.1 * tiny.draw(shape[0], seed=seed + 2)
    return {**lora(shape, seed, rank), "magnitude": magnitude}


def dora_over_in(shape: tuple[int, ...], seed: int, rank: int = 4) -> Parts:
    magnitude = 0.6 + 0.1 * tiny.draw(1, shape[1], seed=seed + 2)
    return {**lora(shape, seed, rank), "magnitude": magnitude}


def loha(shape: tuple[int, ...], seed: int, rank: int = 3) -> Parts:
    left = {f"hada_w{n}_a": tiny.draw(shape[0], rank, seed=seed + n) for n in (1, 2)}
    right = {f"hada_w{n}_b": tiny.draw(rank, shape[1], seed=seed + 2 + n) for n in (1, 2)}
    return left | {part: 0.15 * tensor for part, tensor in right.items()}


def lokr(shape: tuple[int, ...], seed: int, rank: int = 4) -> Parts:
    first = 0.2 * tiny.draw(4, 8, seed=seed)
    return {
        "lokr_w1": first,
        "lokr_w2": 0.2 * tiny.draw(shape[0] // 4, shape[1] // 8, seed=seed + 1),
    }


def lokr_half(shape: tuple[int, ...], seed: int, rank: int = 2) -> Parts:
    """The second factor a product of two."""
    first, second = lokr(shape, seed)["lokr_w1"], lora((shape[0] // 4, shape[1] // 8), seed, rank)
    return {"lokr_w1": first, "lokr_w2_a": second["up"], "lokr_w2_b": second["down"]}


def lokr_factored(shape: tuple[int, ...], seed: int, rank: int = 2) -> Parts:
    """Both factors products of two."""
    first = lora((4, 8), seed + 5, rank)
    half = {**lokr_half(shape, seed, rank), "lokr_w1_a": first["up"], "lokr_w1_b": first["down"]}
    return {part: tensor for part, tensor in half.items() if part != "lokr_w1"}


def full(shape: tuple[int, ...], seed: int, rank: int = 0) -> Parts:
    return {"diff": (0.05 if len(shape) == 2 else 0.3) * tiny.draw(*shape, seed=seed)}


def bias(shape: tuple[int, ...], seed: int, rank: int = 0) -> Parts:
    return {"bias": 0.1 * tiny.draw(shape[0], seed=seed)}


def lora_biased(shape: tuple[int, ...], seed: int, rank: int = 4) -> Parts:
    up_bias = 0.1 * tiny.draw(shape[0], seed=seed + 3)
    return {**lora(shape, seed, rank), **bias(shape, seed), "up_bias": up_bias}


Kind = Callable[..., Parts]
KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (lora, lora_biased, dora, dora_over_in, loha, lokr, lokr_half, lokr_factored)
} | {"full": full, "bias": bias}


def make(
    kind: str = "lora",
    layers: Iterable[str] = SOME,
    *,
    alpha: float | None = None,
    rank: int | None = None,
) -> Layers:
    """Updates of one kind; every layer's numbers are its own, whatever the other layers."""
    more = {} if rank is None else {"rank": rank}
    made = {n: KINDS[kind](known()[n].weight, crc32(n.encode()), **more) for n in layers}
    if alpha is not None:
        made = {n: {**parts, "alpha": torch.tensor(alpha)} for n, parts in made.items()}
    return made


# ---- namings ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Naming:
    """What stands before a layer's name and behind it, and whether its dots are underscores."""

    prefix: str
    down: str
    up: str
    flat: bool = False
    magnitude: str = ".dora_scale"
    infix: str = ""

    def key(self, layer: str, part: str) -> str:
        own = {
            "down": self.down,
            "up": self.up,
            "up_bias": f".lora_B{self.infix}.bias",
            "magnitude": self.magnitude,
            "bias": ".diff_b",
        }
        return (
            self.prefix
            + (layer.replace(".", "_") if self.flat else layer)
            + own.get(part, f".{part}")
        )


NAMINGS = {
    "peft": Naming(
        "base_model.model.",
        ".lora_A.weight",
        ".lora_B.weight",
        magnitude=".lora_magnitude_vector.weight",
    ),
    "diffusers": Naming("transformer.", ".lora_A.weight", ".lora_B.weight"),
    "comfy": Naming("diffusion_model.", ".lora_A.weight", ".lora_B.weight"),
    "bare": Naming("", ".lora_A.weight", ".lora_B.weight", magnitude=".lora_magnitude_vector"),
    "lightning": Naming("", ".lora_down.weight", ".lora_up.weight"),
    "kohya": Naming("lora_unet_", ".lora_down.weight", ".lora_up.weight", flat=True),
    "lycoris": Naming("lycoris_", ".lora_down.weight", ".lora_up.weight", flat=True),
    "old diffusers": Naming("transformer.", ".lora.down.weight", ".lora.up.weight"),
    "processors": Naming("", "_lora.down.weight", "_lora.up.weight"),
    "diffsynth": Naming(
        "pipe.dit.", ".lora_A.default.weight", ".lora_B.default.weight", infix=".default"
    ),
}


def tensors(layers: Mapping[str, Parts], naming: str = "bare") -> dict[str, Tensor]:
    """As they stand in a file."""
    own = NAMINGS[naming]
    return {
        own.key(n, part): tensor for n, parts in layers.items() for part, tensor in parts.items()
    }


# ---- files ------------------------------------------------------------------------------------


def write(
    path: Path, named: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> Path:
    """A safetensors file; metadata that is no text becomes JSON."""
    plain = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in (metadata or {}).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: tensor.contiguous() for n, tensor in named.items()}, path, plain or None)
    return path


def sampled(steps: int, sigmas: list[float] | None = None, guidance: float | None = None) -> Any:
    """Metadata of an adapter that was made for one way of sampling."""
    made = {"steps": steps, "sigmas": sigmas, "guidance": guidance}
    return {"danqing": {"sampling": {name: v for name, v in made.items() if v is not None}}}
