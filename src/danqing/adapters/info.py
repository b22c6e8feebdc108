"""What is inside an adapter file, as a person wants to know it: a row for each kind of layer."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from danqing.adapters import published
from danqing.adapters.adapter import Adapter, Sampling, Update, delta
from danqing.adapters.formats import read
from danqing.adapters.safe import locate
from danqing.adapters.store import digest
from danqing.adapters.write import kind_of

# Metadata of other tools that says what an adapter is for.
TELLING = (
    "ss_base_model_version",
    "ss_output_name",
    "modelspec.architecture",
    "modelspec.title",
    "modelspec.trigger_phrase",
)


@dataclass(frozen=True)
class Group:
    """All layers of one kind: ``attn.to_q`` in every block.

    ``norm`` is the root mean square of the updates' Frobenius norms at strength 1; none where it
    depends on the model's weights (DoRA).
    """

    target: str
    kind: str
    layers: int
    blocks: str
    ranks: list[int]
    alphas: list[float]
    norm: float | None


@dataclass(frozen=True)
class AdapterInfo:
    path: Path
    naming: str
    sha256: str
    bytes: int
    tensors: int
    dtypes: list[str]
    groups: list[Group]
    base: Mapping[str, str] | None
    sampling: Sampling | None
    metadata: Mapping[str, str]
    odd: list[str]


def describe(name: str) -> AdapterInfo:
    """Of a file, a folder, or a published adapter that was fetched."""
    path = published.find(name)
    adapter, file = read(path), locate(path)
    updates = adapter.updates
    parts = [part for update in updates.values() for part in update.parts.values()]
    kinds = dict.fromkeys((kind_of(layer), u.kind) for layer, u in updates.items())
    groups = [
        group(
            target,
            kind,
            {n: u for n, u in updates.items() if (kind_of(n), u.kind) == (target, kind)},
        )
        for target, kind in sorted(kinds)
    ]
    return AdapterInfo(
        path=path,
        naming=adapter.naming,
        sha256=digest(file),
        bytes=file.stat().st_size,
        tensors=len(parts),
        dtypes=sorted({str(part.dtype).removeprefix("torch.") for part in parts}),
        groups=groups,
        base=adapter.base,
        sampling=adapter.sampling,
        metadata={key: adapter.metadata[key] for key in TELLING if key in adapter.metadata},
        odd=[*adapter.notes, *oddities(adapter)],
    )


def group(target: str, kind: str, updates: Mapping[str, Update]) -> Group:
    own = list(updates.values())
    decomposed = any(update.magnitude is not None for update in own)
    norms = [] if decomposed else [norm(update) for update in own]
    return Group(
        target=target,
        kind="dora" if decomposed and kind == "lora" else kind,
        layers=len(own),
        blocks=ranges(
            int(m[1]) for n in updates if (m := re.match(r"transformer_blocks\.(\d+)", n))
        ),
        ranks=sorted({update.rank for update in own if update.rank}),
        alphas=sorted({update.alpha for update in own if update.alpha is not None}),
        norm=(sum(n**2 for n in norms) / len(norms)) ** 0.5 if norms else None,
    )


def norm(update: Update) -> float:
    """The Frobenius norm of the update's matrix."""
    if update.shape is None:
        return float(update.parts["bias"].float().norm())
    if update.kind != "lora":
        return float(delta(update).norm())
    # tr(A^T B^T B A) needs no matrix of the layer's size; in float64, as it is a square.
    down, up = update.parts["down"].double(), update.parts["up"].double()
    square = float(((up.T @ up) * (down @ down.T)).sum())
    return abs(update.scale) * max(square, 0.0) ** 0.5


def ranges(numbers: Iterable[int]) -> str:
    """``0-3, 7`` of 0, 1, 2, 3, 7."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def oddities(adapter: Adapter) -> list[str]:
    """What is likely a mistake in the making of the file."""
    updates, found = adapter.updates, []
    idle = [layer for layer, update in updates.items() if is_idle(update)]
    if idle:
        found.append(f"{len(idle)} of {len(updates)} layers have an update of zero ({idle[0]})")
    wide = [n for n, u in updates.items() if u.rank and u.shape and u.rank > min(u.shape)]
    if wide:
        found.append(f"the rank is above the layer's width in {len(wide)} layers ({wide[0]})")
    if any(update.alpha == 0 for update in updates.values()):
        found.append("alpha is 0 in some layers: they do nothing")
    return found


def is_idle(update: Update) -> bool:
    last = update.parts.get("up", update.parts.get("diff"))
    return last is not None and update.magnitude is None and not bool(torch.any(last != 0))
