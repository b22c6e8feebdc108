"""Folding adapters into a model's weights: in float32, rounded once, written as a new model."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from danqing.adapters import published
from danqing.adapters.adapter import Adapter, Sampling, Update, bias_change, change
from danqing.adapters.formats import read
from danqing.adapters.refusal import listed
from danqing.adapters.targets import check_fit, layer_of, targets
from danqing.errors import AdapterError, RequestError
from danqing.weights.export import copy_rest, new_folder
from danqing.weights.files import TensorFiles, dtype_named, write_json, write_tensors
from danqing.weights.hub import find
from danqing.weights.model import STEMS, build, check_parts, read_defaults

EXACT = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
Weighted = Sequence[tuple[Adapter, float]]


@dataclass
class Merged:
    """How many tensors were changed, and the share of the change that rounding took away.

    The share is of the norm: 0.01 is 1 % of the update.
    """

    tensors: int = 0
    wanted: float = 0.0  # sums of squares
    missed: float = 0.0

    @property
    def lost(self) -> float:
        return (self.missed / self.wanted) ** 0.5 if self.wanted else 0.0


def merge(
    model: str,
    strengths: Sequence[tuple[str, float]],
    folder: Path,
    *,
    dtype: str | None = None,
    allow_quantised: bool = False,
) -> Merged:
    """Write a model with the adapters folded in.

    Args:
        model: a name that ``danqing.load`` takes.
        strengths: adapters (files or published names), each with its strength.
        folder: where to; must not exist, or be empty.
        dtype: of the transformer's weights; the files' own by default.
        allow_quantised: round back into weights of 8 bits or fewer, which loses most of an adapter.

    Raises:
        AdapterError: an adapter does not fit, or would be lost in quantised weights.
    """
    source = find(model)
    check_parts(source)
    weighted = [(read(published.find(name)), strength) for name, strength in strengths]
    known = targets(build(source)["transformer"])
    for (adapter, _), (name, _) in zip(weighted, strengths, strict=True):
        check_fit(adapter, known, name, model)
    made, target = sampling_of(weighted), dtype_named(dtype) if dtype else None
    merged = Merged()
    stem = STEMS["transformer"]
    with TensorFiles(source / "transformer", stem) as files, new_folder(folder) as draft:
        if dtype is None and not allow_quantised:
            check_exact(files, weighted)
        copy_rest(source, draft)
        write_tensors(draft / "transformer", stem, folded(files, weighted, target, merged))
        note_sampling(source, draft, made)
    return merged


def folded(
    files: TensorFiles, weighted: Weighted, dtype: torch.dtype | None, merged: Merged
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the transformer, changed where an adapter says so."""
    for name in sorted(files.home):
        tensor = files.read(name)
        kept = dtype or tensor.dtype
        changes = [
            strength * part
            for adapter, strength in weighted
            if (part := changed(name, tensor, adapter.updates.get(layer_of(name)))) is not None
        ]
        if not changes:
            yield name, tensor.to(kept)
            continue
        whole = torch.stack(changes).sum(0)
        rounded = (tensor.float() + whole).to(kept)
        merged.tensors += 1
        merged.wanted += float(whole.square().sum())
        merged.missed += float((rounded.float() - tensor.float() - whole).square().sum())
        if not bool(torch.isfinite(rounded.float()).all()):
            raise AdapterError(f"{name} would hold infinity in {kept}; lower the strengths")
        yield name, rounded


def changed(name: str, tensor: Tensor, update: Update | None) -> Tensor | None:
    """What one adapter adds to this tensor at strength 1, float32."""
    if update is None:
        return None
    if name.endswith(".bias"):
        return bias_change(update)
    return change(update, tensor) if update.shape else None


def check_exact(files: TensorFiles, weighted: Weighted) -> None:
    """Refuse weights so coarse that rounding would eat the adapters."""
    layers = {layer for adapter, _ in weighted for layer in adapter.updates}
    coarse = [
        f"{name} is {files.dtype(name)}"
        for name in sorted(files.home)
        if layer_of(name) in layers and files.dtype(name) not in EXACT
    ]
    if coarse:
        raise AdapterError(
            f"{files.folder}: {listed(coarse)}; a merge would round most of the adapter away. Give "
            "--dtype bfloat16, or --allow-quantised to round back, or apply it beside the weights"
        )


def sampling_of(weighted: Weighted) -> Sampling | None:
    """What the adapters were made for, if they agree."""
    made = {adapter.sampling for adapter, strength in weighted if strength > 0} - {None}
    if len(made) > 1:
        raise RequestError(
            f"the adapters were made for different sampling ({', '.join(map(str, made))}); "
            "merge one of them"
        )
    return made.pop() if made else None


def note_sampling(source: Path, folder: Path, made: Sampling | None) -> None:
    """The merged model samples by itself as its adapter was made for."""
    if made is None:
        return
    defaults = read_defaults(source)
    guidance = defaults.guidance if made.guidance is None else made.guidance
    noted = replace(defaults, steps=made.steps, sigmas=made.sigmas, guidance=guidance, adapter=None)
    write_json(folder / "danqing.json", asdict(noted))
