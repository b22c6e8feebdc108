"""Reading an adapter, in whatever way its tensors are named, into the one canonical form.

Everything in the file is understood and checked, or the file is refused with the list of what is
not. Does not know networks: whether an adapter fits one is checked by ``targets.check_fit``.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danqing.adapters.adapter import ANY, FULL, LOHA, LOKR, LORA, Adapter, Sampling, Update
from danqing.adapters.keys import Key, describe, understand
from danqing.adapters.peft import peft_alpha, peft_config, whole_factor
from danqing.adapters.published import known_sampling
from danqing.adapters.refusal import Refuse, refusal
from danqing.adapters.safe import locate, read_tensors
from danqing.errors import RequestError
from danqing.sampling.schedule import check_sigmas

OWN_METADATA = "danqing"
REAL = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
REAL |= {torch.float8_e4m3fn, torch.float8_e5m2}
PRODUCTS = (
    ("up", "down"), ("hada_w1_a", "hada_w1_b"), ("hada_w2_a", "hada_w2_b"),
    ("lokr_w1_a", "lokr_w1_b"), ("lokr_w2_a", "lokr_w2_b"),
)  # fmt: skip
WHOLE = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}


def read(path: Path) -> Adapter:
    """The adapter in a safetensors file, or in a folder as PEFT and diffusers write it.

    Raises:
        AdapterError: it is damaged, holds a key or a value that is not understood, or is no
            safetensors file at all.
    """
    tensors, metadata = read_tensors(path)
    adapter = parse(tensors, metadata, str(path))
    return replace(adapter, sampling=adapter.sampling or known_sampling(locate(path)))


def parse(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> Adapter:
    """The adapter of these tensors; ``name`` is for errors."""
    refuse = refusal(name)
    keys = understand(tensors, refuse)
    check_values(tensors, {key.text for key in keys if key.part == "alpha"}, refuse)
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    doubles = []
    for key in keys:
        if key.part in layers[key.layer]:
            doubles.append(key.text)
        layers[key.layer][key.part] = tensors[key.text]
    refuse("gives a layer the same part twice", doubles)
    refuse("is not whole", [f for layer in layers for f in gaps(layer, layers[layer])])
    refuse("has shapes that do not go together", _all(shape_faults, layers))
    refuse("has products that are not finite", _all(overflows, layers))
    config = peft_config(metadata, refuse)
    alphas = read_alphas(layers, config, refuse)
    updates = {layer: make_update(parts, alphas[layer]) for layer, parts in layers.items()}
    own = own_metadata(metadata, refuse)
    return Adapter(
        updates=updates,
        naming=describe(keys),
        metadata=dict(metadata),
        base=own.get("base"),
        sampling=read_sampling(own.get("sampling"), refuse),
        notes=tuple(odd(keys, alphas)),
    )


def _all(
    faults: Callable[[str, dict[str, Tensor]], Iterator[str]],
    layers: Mapping[str, dict[str, Tensor]],
) -> list[str]:
    return [fault for layer, parts in layers.items() for fault in faults(layer, parts)]


# ---- tensors ----------------------------------------------------------------------------------


def check_values(tensors: Mapping[str, Tensor], alphas: set[str], refuse: Refuse) -> None:
    """Matrices of real numbers, and nothing infinite; an alpha may be a whole number."""
    strange = [
        f"{name} is {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in tensors.items()
        if tensor.dtype not in (REAL | WHOLE if name in alphas else REAL)
    ]
    refuse("holds other than real numbers; give it in a floating-point type", strange)
    bad = [n for n, t in tensors.items() if not is_finite(t)]
    refuse("holds NaN or infinity", bad)


def is_finite(tensor: Tensor) -> bool:
    """Also in single precision, in which it is used."""
    return bool(torch.isfinite(tensor.float()).all())


def gaps(layer: str, parts: Mapping[str, Tensor]) -> Iterator[str]:
    """What a layer lacks, or has of two kinds."""
    kinds = [kind for kind in (LORA, LOHA, LOKR, FULL) if any(part in parts for part in kind)]
    if len(kinds) > 1:
        yield f"{layer} has both {kinds[0][0]} and {kinds[1][0]}"
    for half in ("lokr_w1", "lokr_w2"):
        if half in parts and {f"{half}_a", f"{half}_b"} & set(parts):
            yield f"{layer} has {half} both whole and as a product"
    for kind in kinds:
        yield from (f"{layer} lacks {part}" for part in lacking(kind, parts))
    if not kinds and set(parts) - {"bias"}:
        yield f"{layer} has {' and '.join(sorted(parts))} and no matrix"
    if "up_bias" in parts and "magnitude" in parts:
        yield f"{layer} has a bias in lora_B and a magnitude, which exclude each other"


def lacking(kind: tuple[str, ...], parts: Mapping[str, Tensor]) -> list[str]:
    if kind is LOKR:
        return [
            f"{w} or {w}_a and {w}_b"
            for w in ("lokr_w1", "lokr_w2")
            if w not in parts and not {f"{w}_a", f"{w}_b"} <= set(parts)
        ]
    needed = ("down", "up") if kind is LORA else kind
    return [part for part in needed if part not in parts]


def overflows(layer: str, parts: Mapping[str, Tensor]) -> Iterator[str]:
    """Products that may leave single precision. What comes of them need not show in a picture:
    some processors' attention takes NaN for nothing."""
    limit = torch.finfo(torch.float32).max
    for left, right in products(parts):
        most = math.prod(parts[name].float().abs().max().item() for name in (left, right))
        if most * parts[left].shape[1] > limit:
            yield f"{layer} {left} x {right}"


def products(parts: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Which parts are multiplied with each other."""
    return [(left, right) for left, right in PRODUCTS if left in parts and right in parts]


def shape_faults(layer: str, parts: Mapping[str, Tensor]) -> Iterator[str]:
    """Products whose inner sizes differ, and tensors with a wrong number of axes."""
    for part, tensor in parts.items():
        fault = axes_fault(part, tensor)
        if fault:
            yield f"{layer} {part} {list(tensor.shape)} {fault}"
            return
    for left, right in products(parts):
        if parts[left].shape[1] != parts[right].shape[0]:
            shapes = f"{list(parts[left].shape)} and {left} against {right}"
            yield f"{layer} {shapes} {list(parts[right].shape)}"
            return
    if "hada_w1_a" in parts:
        ends = [(parts[f"hada_w{n}_a"].shape[0], parts[f"hada_w{n}_b"].shape[1]) for n in (1, 2)]
        if ends[0] != ends[1]:
            yield f"{layer} multiplies {list(ends[0])} by {list(ends[1])}"


def axes_fault(part: str, tensor: Tensor) -> str | None:
    """What is wrong with the tensor's number of axes or its sizes."""
    if part == "alpha":
        return None if tensor.numel() == 1 else "is not one number"
    if 0 in tensor.shape:
        return "is empty (rank 0)"
    if part in ("bias", "up_bias"):
        return None if tensor.ndim == 1 else "is not a vector"
    if part == "diff":
        return None if tensor.ndim in (1, 2) else "is no vector and no matrix"
    if part == "magnitude":
        plain = tensor.ndim == 1 or (tensor.ndim == 2 and 1 in tensor.shape)
        return None if plain else "is no vector"
    return None if tensor.ndim == 2 else "is no matrix"


def make_update(parts: Mapping[str, Tensor], alpha: float | None) -> Update:
    kept = {name: parts[name] for name in (*LORA, *LOHA, *LOKR, *FULL, *ANY) if name in parts}
    magnitude = kept.get("magnitude")
    if magnitude is not None and magnitude.ndim == 2 and magnitude.shape[1] == 1:
        kept["magnitude"] = magnitude[:, 0]
    return Update(kept, alpha)


# ---- alpha and metadata -----------------------------------------------------------------------


def read_alphas(
    layers: Mapping[str, dict[str, Tensor]], config: dict[str, Any] | None, refuse: Refuse
) -> dict[str, float | None]:
    """Every layer's alpha: a tensor beside it, or PEFT's settings in the metadata, or none."""
    stated = {
        layer: float(p["alpha"].double().item()) for layer, p in layers.items() if "alpha" in p
    }
    refuse(
        "has an alpha that is no number",
        [f"{layer} {alpha}" for layer, alpha in stated.items() if not math.isfinite(alpha)],
    )
    ranked = [layer for layer, parts in layers.items() if make_update(parts, None).rank]
    if config is not None:
        said = {n: peft_alpha(n, make_update(layers[n], None).rank, config) for n in ranked}
        refuse(
            "contradicts its own metadata",
            [f"{n} has {fault}" for n, (_, fault) in said.items() if fault]
            + [
                f"{n} has alpha {stated[n]:g}, in the metadata {a:g}"
                for n, (a, _) in said.items()
                if n in stated and not math.isclose(stated[n], a, rel_tol=1e-3)
            ],
        )
        whole = [n for n, parts in layers.items() if {"lokr_w1", "lokr_w2"} <= set(parts)]
        found = {n: alpha for n, (alpha, _) in said.items()}
        found |= {n: whole_factor(n, config) for n in whole}
        return {layer: found.get(layer) for layer in layers}
    if stated:
        refuse(
            "has an alpha for some layers and not for others",
            [f"{layer} lacks alpha" for layer in ranked if layer not in stated],
        )
    return {layer: stated.get(layer) if layer in ranked else None for layer in layers}


def own_metadata(metadata: Mapping[str, str], refuse: Refuse) -> dict[str, Any]:
    """What danqing itself wrote into the file."""
    try:
        own = json.loads(metadata.get(OWN_METADATA, "{}"))
    except (ValueError, RecursionError):
        own = None
    if not isinstance(own, dict) or not isinstance(own.get("base") or {}, dict):
        refuse("has metadata that cannot be read", [OWN_METADATA])
        return {}
    return own


def read_sampling(values: Any, refuse: Refuse) -> Sampling | None:
    if values is None:
        return None
    try:
        sigmas = values.get("sigmas")
        levels = None if sigmas is None else tuple(check_sigmas(sigmas))
        guidance = values.get("guidance")
        also = tuple(tuple(check_sigmas(own)) for own in values.get("also") or ())
        scale = None if guidance is None else float(guidance)
        made = Sampling(values["steps"], levels, scale, also)
        sound = type(made.steps) is int and made.steps > 0
        sound = sound and (levels is None or len(levels) - 1 == made.steps)
        sound = sound and (guidance is None or 1 <= made.guidance < math.inf)  # type: ignore[operator]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RequestError):
        sound = False
    if not sound:
        refuse("has metadata that cannot be read", [f"sampling {values!r}"])
    return made


def odd(keys: list[Key], alphas: Mapping[str, float | None]) -> Iterator[str]:
    """What a person should know about the file, though it can be read."""
    if len({key.prefix for key in keys}) > 1:
        yield "its keys have several prefixes"
    ranked = any(key.part in ("down", "hada_w1_b", "lokr_w2_b") for key in keys)
    if ranked and all(alpha is None for alpha in alphas.values()):
        yield "alpha is not stated: the scale is 1, as other tools take it"
