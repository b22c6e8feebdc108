"""Several adapters as one: exact, by laying their ranks side by side, or near, at a given rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from danqing.adapters import svd
from danqing.adapters.adapter import Adapter, Update, bias_change, delta
from danqing.adapters.formats import read
from danqing.adapters.refusal import refusal
from danqing.adapters.write import cast, check_target, write
from danqing.errors import AdapterError
from danqing.weights.files import dtype_named

Weighted = Sequence[tuple[Adapter, float]]


@dataclass(frozen=True)
class Combined:
    """What came of it: the adapter, and the share of the energy kept, by layer (1: all)."""

    adapter: Adapter
    energy: Mapping[str, float]


def combine_files(
    strengths: Sequence[tuple[Path, float]],
    target: Path,
    *,
    rank: int | None = None,
    naming: str = "diffusers",
    dtype: str | None = None,
    overwrite: bool = False,
) -> Combined:
    """Write one adapter that does what these do together at their strengths.

    Args:
        strengths: files, each with its strength.
        target: the new file.
        rank: of the new adapter; without it the combination is exact.
        naming, overwrite: as in ``write``.
        dtype: of the tensors; float32 by default.
    """
    check_target(target, naming, dtype, overwrite=overwrite)
    found = combine([(read(path), strength) for path, strength in strengths], rank)
    adapter = cast(found.adapter, dtype_named(dtype)) if dtype else found.adapter
    write(adapter, target, naming, overwrite=overwrite)
    return replace(found, adapter=adapter)


def combine(weighted: Weighted, rank: int | None = None) -> Combined:
    """The sum of adapters as one adapter at strength 1, in float32."""
    if not weighted:
        raise AdapterError("no adapter to combine; give at least one")
    if rank is not None and rank < 1:
        raise AdapterError(f"rank {rank} must be a whole number from 1 upwards")
    check(weighted, rank)
    layers = dict.fromkeys(layer for adapter, _ in weighted for layer in adapter.updates)
    updates, energy = {}, {}
    for layer in layers:
        own = [(a.updates[layer], s) for a, s in weighted if layer in a.updates]
        updates[layer], energy[layer] = sum_of(own, rank)
    bases = [adapter.base for adapter, _ in weighted]
    made = {adapter.sampling for adapter, s in weighted if adapter.sampling and s > 0}
    adapter = Adapter(
        updates=updates,
        base=bases[0] if all(base == bases[0] for base in bases) else None,
        sampling=made.pop() if len(made) == 1 else None,
    )
    return Combined(adapter, energy)


def check(weighted: Weighted, rank: int | None) -> None:
    """Refuse what cannot be summed without the base, or not in the asked way."""
    refuse = refusal("combination")
    everything = [(layer, u) for a, _ in weighted for layer, u in a.updates.items()]
    refuse(
        "needs the model's weights for DoRA; merge into the model, then extract",
        [layer for layer, update in everything if update.magnitude is not None],
    )
    if rank is None:
        refuse(
            "is exact for plain LoRA only; give --rank",
            [f"{layer} is {u.kind}" for layer, u in everything if u.kind in ("loha", "lokr")],
        )
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for layer, update in everything:
        if update.shape:
            shapes.setdefault(layer, set()).add(update.shape)
    refuse(
        "is of adapters for different models",
        [f"{layer} has {sorted(found)}" for layer, found in shapes.items() if len(found) > 1],
    )


def sum_of(own: Sequence[tuple[Update, float]], rank: int | None) -> tuple[Update, float]:
    """One layer's updates as one, and the energy kept."""
    parts: dict[str, Tensor] = {}
    biases = [s * b for u, s in own if (b := bias_change(u)) is not None]
    if biases:
        parts["bias"] = torch.stack(biases).sum(0)
    weights = [(u, s) for u, s in own if u.shape]
    if not weights:
        return Update(parts), 1.0
    lora = all(u.kind == "lora" for u, _ in weights)
    norm = len(weights[0][0].shape or ()) == 1
    if norm or (rank is None and not lora):  # beside a whole matrix a product saves nothing
        parts["diff"] = torch.stack([s * delta(u) for u, s in weights]).sum(0)
        return Update(parts), 1.0
    if lora:
        downs = [u.parts["down"].float() for u, _ in weights]
        ups = [s * u.scale * u.parts["up"].float() for u, s in weights]
        if rank is None or rank >= sum(len(down) for down in downs):
            parts |= {"down": torch.cat(downs), "up": torch.cat(ups, dim=1)}
            return Update(parts, float(len(parts["down"]))), 1.0
        down, up, energy = svd.nearest_to_products(downs, ups, rank)
    else:
        whole = torch.stack([s * delta(u) for u, s in weights]).sum(0)
        down, up, energy = svd.nearest(whole, rank or min(whole.shape))
    return Update({**parts, "down": down, "up": up}, float(len(down))), energy
