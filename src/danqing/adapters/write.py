"""Writing an adapter in the naming of another tool. The inverse of ``formats``.

The tensors stay as they are, so that converting there and back gives the same ones. What has no
place in a naming is refused, never left out.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danqing import atomic
from danqing.adapters.adapter import LOHA, LOKR, Adapter, Sampling, Update
from danqing.adapters.formats import OWN_METADATA, is_finite, read
from danqing.adapters.peft import PEFT_METADATA
from danqing.adapters.refusal import refusal
from danqing.adapters.safe import serialise
from danqing.errors import AdapterError, OutputError
from danqing.version import __version__
from danqing.weights.files import dtype_named

LYCORIS = {
    "down": "lora_down.weight",
    "up": "lora_up.weight",
    "magnitude": "dora_scale",
    "diff": "diff",
    "bias": "diff_b",
    **{part: part for part in (*LOHA, *LOKR)},
}
PEFT = {
    "down": "lora_A.weight",
    "up": "lora_B.weight",
    "up_bias": "lora_B.bias",
    "magnitude": "lora_magnitude_vector",
}


@dataclass(frozen=True)
class Naming:
    """How a tool names tensors; ``flat`` names have underscores in place of dots."""

    prefix: str
    parts: Mapping[str, str]
    flat: bool = False
    alpha: bool = True  # as a tensor beside each layer; else in PEFT's settings


NAMINGS = {
    "diffusers": Naming("transformer.", PEFT, alpha=False),
    "comfyui": Naming("diffusion_model.", LYCORIS),
    "kohya": Naming("lora_unet_", LYCORIS, flat=True),
    "lightning": Naming("", LYCORIS),
}


def convert(
    source: Path,
    target: Path,
    naming: str,
    *,
    dtype: str | None = None,
    base: Mapping[str, str] | None = None,
    sampling: Sampling | None = None,
    overwrite: bool = False,
) -> Adapter:
    """Write the adapter in ``source`` again, in another naming; what was written.

    Args:
        source: a file or folder that ``formats.read`` takes.
        target: the new file.
        naming: one of ``NAMINGS``.
        dtype: of the tensors; their own by default.
        base: id and fingerprint of the model that it was made for, to be noted in the file.
        sampling: what it was made for, to be noted in the file.
        overwrite: whether an existing file may be replaced.
    """
    check_target(target, naming, dtype, overwrite=overwrite)
    adapter = read(source)
    adapter = replace(adapter, base=base or adapter.base, sampling=sampling or adapter.sampling)
    if dtype:
        adapter = cast(adapter, dtype_named(dtype))
    write(adapter, target, naming, overwrite=overwrite)
    return adapter


def cast(adapter: Adapter, dtype: torch.dtype) -> Adapter:
    cpu = torch.device("cpu")
    return replace(adapter, updates={n: u.to(cpu, dtype) for n, u in adapter.updates.items()})


def write(adapter: Adapter, path: Path, naming: str, *, overwrite: bool = False) -> None:
    """Write the adapter: the whole file, or nothing.

    Raises:
        AdapterError: the naming has no place for something in the adapter.
        OutputError: the file exists, or cannot be written.
    """
    check_target(path, naming, overwrite=overwrite)
    rules, refuse = NAMINGS[naming], refusal(str(path))
    refuse(
        f"cannot be written in the {naming} naming, which has no place for all of it; "
        "choose --naming comfyui, or make a plain LoRA of it with: danqing adapter combine --rank",
        list(homeless(adapter, rules)),
    )
    tensors = dict(tensors_of(adapter, rules))
    refuse(
        "would hold NaN or infinity; lower the strengths or choose a wider --dtype",
        [name for name, tensor in tensors.items() if not is_finite(tensor)],
    )
    content = serialise(tensors, metadata_of(adapter, naming))
    atomic.write(path, lambda file: file.write(content), overwrite=overwrite)


def check_target(
    path: Path, naming: str, dtype: str | None = None, *, overwrite: bool = False
) -> None:
    """Mistakes that would else show only when all work is done."""
    if naming not in NAMINGS:
        raise AdapterError(f"naming {naming!r} is not known; choose {', '.join(NAMINGS)}")
    if path.suffix != ".safetensors":
        other = path.with_suffix(".safetensors")
        raise AdapterError(f"adapters are written as safetensors; name {other} instead of {path}")
    if dtype is not None:
        dtype_named(dtype)
    if os.path.lexists(path) and (path.is_dir() or not overwrite):
        raise OutputError(f"{path} exists; give another name, or --overwrite for a file")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent} is no folder; create it first or choose another one")


def homeless(adapter: Adapter, rules: Naming) -> Iterator[str]:
    """What the naming cannot say."""
    for layer, update in adapter.updates.items():
        yield from (f"{layer} {part}" for part in update.parts if part not in rules.parts)
        if update.rank is None and update.scale != 1:
            yield f"{layer} a scale of whole matrices"
        magnitude = update.magnitude
        if rules.parts is PEFT and magnitude is not None and magnitude.ndim == 2:
            yield f"{layer} magnitude over the input"
    if rules.parts is PEFT:
        decomposed = [n for n, u in adapter.updates.items() if u.magnitude is not None]
        if 0 < len(decomposed) < len(adapter.updates):
            yield f"a magnitude on {len(decomposed)} of {len(adapter.updates)} layers only"


def tensors_of(adapter: Adapter, rules: Naming) -> Iterator[tuple[str, Tensor]]:
    for layer, update in sorted(adapter.updates.items()):
        name = rules.prefix + (layer.replace(".", "_") if rules.flat else layer)
        for part, tensor in update.parts.items():
            column = rules.parts[part] == "dora_scale" and tensor.ndim == 1
            yield (
                f"{name}.{rules.parts[part]}",
                (tensor[:, None] if column else tensor).contiguous(),
            )
        if rules.alpha and update.rank is not None:
            yield f"{name}.alpha", exact_scalar(stated_alpha(update))


def stated_alpha(update: Update) -> float:
    """Alpha, spelled out: without one the scale is 1, as with the rank."""
    return float(update.rank or 1) if update.alpha is None else update.alpha


def exact_scalar(value: float) -> Tensor:
    single = torch.tensor(value, dtype=torch.float32)
    return single if single.item() == value else torch.tensor(value, dtype=torch.float64)


# ---- metadata ---------------------------------------------------------------------------------


def metadata_of(adapter: Adapter, naming: str) -> dict[str, str]:
    """What stood in the file before, and what danqing and the naming's tool keep there."""
    kept = {k: v for k, v in adapter.metadata.items() if k not in (PEFT_METADATA, OWN_METADATA)}
    found = {
        **kept,
        "format": "pt",
        OWN_METADATA: json.dumps(own_metadata(adapter), sort_keys=True),
    }
    ranks = Counter(u.rank for u in adapter.updates.values() if u.rank)
    if not ranks:
        return found
    alphas = Counter(stated_alpha(u) for u in adapter.updates.values() if u.rank)
    rank, alpha = ranks.most_common(1)[0][0], alphas.most_common(1)[0][0]
    if naming == "diffusers":
        settings = {f"transformer.{k}": v for k, v in peft_settings(adapter, rank, alpha).items()}
        found[PEFT_METADATA] = json.dumps(settings, sort_keys=True)
    if naming == "kohya":
        found |= {"ss_network_dim": str(rank), "ss_network_alpha": f"{alpha:g}"}
        found.setdefault("ss_network_module", "networks.lora_qwen_image")
    return found


def own_metadata(adapter: Adapter) -> dict[str, Any]:
    ranked = [u for u in adapter.updates.values() if u.rank]
    made = adapter.sampling
    return {
        "version": __version__,
        "base": None if adapter.base is None else dict(adapter.base),
        "rank": sorted({u.rank for u in ranked if u.rank}),
        "alpha": sorted({stated_alpha(u) for u in ranked}),
        "targets": sorted({kind_of(layer) for layer in adapter.updates}),
        "sampling": made
        and {
            "steps": made.steps,
            "sigmas": made.sigmas and list(made.sigmas),
            "guidance": made.guidance,
            **({"also": [list(own) for own in made.also]} if made.also else {}),
        },
    }


def kind_of(layer: str) -> str:
    """``attn.to_q`` of ``transformer_blocks.7.attn.to_q``; other layers as they are."""
    head, _, rest = layer.partition(".")
    return rest.partition(".")[2] if head == "transformer_blocks" else layer


def peft_settings(adapter: Adapter, rank: int, alpha: float) -> dict[str, Any]:
    """PEFT's LoraConfig of the adapter, as diffusers reads it."""
    updates = adapter.updates
    return {
        "r": rank,
        "lora_alpha": whole(alpha),
        "rank_pattern": {n: u.rank for n, u in updates.items() if u.rank != rank},
        "alpha_pattern": {
            n: whole(stated_alpha(u)) for n, u in updates.items() if stated_alpha(u) != alpha
        },
        "target_modules": sorted(updates),
        "use_dora": any(u.magnitude is not None for u in updates.values()),
        "lora_bias": any("up_bias" in u.parts for u in updates.values()),
    }


def whole(value: float) -> int | float:
    return int(value) if value == int(value) else value
