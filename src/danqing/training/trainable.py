"""Adapters while they are trained: small float32 matrices beside the frozen layers of a network.

    y = W x + b + s B (A x)           LoRA (arXiv 2106.09685), s = alpha / rank;
                                      rank-stabilised (arXiv 2312.03732): alpha / sqrt(rank)
    y = g (W x + s B (A x)) + b       DoRA (arXiv 2402.09353), g = m / |W + s B A|

Several adapters (roles) may stand beside one network, and each segment of a pack goes with one of
them or with none. ``adapters.linear`` runs finished adapters, in place and faster; here gradients
reach the matrices.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.adapters.adapter import Adapter, Update
from danqing.adapters.inject import on_table, on_text
from danqing.adapters.targets import Target, targets
from danqing.models.layout import Layout
from danqing.models.transformer import FusedLinear, Transformer

Runs = list[tuple[slice, str | None]]  # rows, and the role that they go with


@dataclass(frozen=True)
class Shape:
    """What is trained of a layer: the rank, the scale, and whether magnitudes, too (DoRA)."""

    rank: int = 16
    alpha: float = 16.0
    rank_stabilised: bool = False
    dora: bool = False

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


class Pair(nn.Module):
    """The matrices of one layer's update, float32: A as ``nn.Linear`` starts, B zero."""

    def __init__(self, shape: Shape, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        out, width = weight.shape
        bound = 1 / math.sqrt(width)
        start = torch.empty(shape.rank, width).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(start.to(weight.device))
        self.up = nn.Parameter(torch.zeros(out, shape.rank, device=weight.device))
        norm = weight.float().norm(dim=1) if shape.dora else None
        self.magnitude = None if norm is None else nn.Parameter(norm)
        self.scale = shape.scale

    def forward(self, x: Tensor, plain: Tensor, weight: Tensor) -> Tensor:
        """The change of the output [T, out]; ``plain`` is W x."""
        moved = self.scale * F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))
        if self.magnitude is None:
            return moved
        with torch.no_grad():  # for the gradient the norm is a constant (section 4.3)
            norm = (weight.float() + self.scale * self.up @ self.down).norm(dim=1)
        gain = (self.magnitude / norm).to(x.dtype)
        return (gain - 1) * plain + gain * moved

    def update(self) -> Update:
        """As it is written: a copy, with the scale as alpha over the rank."""
        parts = {"down": self.down, "up": self.up, "magnitude": self.magnitude}
        copies = {n: p.detach().cpu().clone() for n, p in parts.items() if p is not None}
        return Update(copies, self.scale * self.down.shape[0])


@dataclass
class Riding:
    """Which rows of each stream go with which role, in the pack at hand.

    Outside of a ``ride`` all rows go with the role ``usual``.
    """

    patches: Runs = field(default_factory=list)
    text: Runs = field(default_factory=list)
    table: Runs = field(default_factory=list)
    usual: str | None = None

    def of(self, layer: str) -> Runs:
        streams = self.text if on_text(layer) else self.patches
        found = self.table if on_table(layer) else streams
        return found or [(slice(None), self.usual)]


class Trained(nn.Module):
    """A frozen layer with what is trained beside it, for every role."""

    def __init__(self, layer: nn.Module, name: str, parts: int, riding: Riding) -> None:
        super().__init__()
        self.layer = layer
        self.pairs = nn.ModuleDict()  # by role and part: "student/0"
        self._name, self._parts, self._riding = name, parts, riding

    @property
    def weight(self) -> Tensor:
        return self.layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor:
        return self.layer.bias  # type: ignore[return-value]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, x_TD: Tensor) -> Tensor:
        return self._add(self.layer(x_TD), x_TD, skip=0)

    def without_first_third(self, x_TD: Tensor) -> Tensor:
        return self._add(cast(FusedLinear, self.layer).without_first_third(x_TD), x_TD, skip=1)

    def _add(self, y: Tensor, x: Tensor, skip: int) -> Tensor:
        """``y`` with the roles' updates; it lacks the first ``skip`` parts of the layer."""
        rows = self._riding.of(self._name)
        if len(rows) == 1:
            return self._changed(y, x, rows[0][1], skip)
        return torch.cat([self._changed(y[own], x[own], role, skip) for own, role in rows])

    def _changed(self, y: Tensor, x: Tensor, role: str | None, skip: int) -> Tensor:
        found = [self.pairs[f"{role}/{part}"] if self._has(role, part) else None
                 for part in range(skip, self._parts)]  # fmt: skip
        if not any(found):
            return y
        width = self.out_features // self._parts
        columns = []
        for part, pair in enumerate(found):
            own = y[:, part * width : (part + 1) * width]
            if pair is not None:
                start = (part + skip) * width
                plain = own - self.bias[start : start + width]
                own = own + pair(x, plain, self.weight[start : start + width])
            columns.append(own)
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)

    def _has(self, role: str | None, part: int) -> bool:
        return role is not None and f"{role}/{part}" in self.pairs


class Trainables:
    """The adapters in training beside one transformer, by role.

    Layers are swapped for ``Trained`` ones when the first role needs them and stay so until
    ``remove``; a segment without a role gets what the network alone gives.
    """

    def __init__(self, network: Transformer) -> None:
        self.network = network
        self.riding = Riding()
        self._known: Mapping[str, Target] = targets(network)
        self._swapped: dict[str, Trained] = {}

    def add(self, role: str, layers: Sequence[str], shape: Shape, seed: int) -> None:
        """Begin an adapter of this role on these published layers."""
        generator = torch.Generator().manual_seed(seed)
        for layer in layers:
            target = self._known[layer]
            trained = self._trained(target)
            width = trained.out_features // target.parts
            weight = trained.weight[target.index * width : (target.index + 1) * width]
            trained.pairs[f"{role}/{target.index}"] = Pair(shape, weight, generator)

    def pairs(self, role: str) -> dict[str, Pair]:
        """The matrices of a role, by published layer."""
        found = {}
        for layer, target in self._known.items():
            trained = self._swapped.get(target.ours)
            key = f"{role}/{target.index}"
            if trained is not None and key in trained.pairs:
                found[layer] = trained.pairs[key]
        return found  # type: ignore[return-value]

    def parameters(self, role: str) -> dict[str, nn.Parameter]:
        """What an optimiser trains, by name."""
        return {
            f"{layer}.{name}": parameter
            for layer, pair in self.pairs(role).items()
            for name, parameter in pair.named_parameters()
        }

    def adapter(self, role: str) -> Adapter:
        """A copy of what was trained so far."""
        return Adapter({layer: pair.update() for layer, pair in self.pairs(role).items()})

    @contextmanager
    def ride(self, layout: Layout, roles: Sequence[str | None]) -> Iterator[None]:
        """While it lasts, each segment of the layout goes with its role."""
        table = roles[0] if len(set(roles)) == 1 else None
        with self._seated(
            runs(layout.patch_lengths, roles),
            runs(layout.text_lengths, roles),
            [(slice(None), table)],
        ):
            yield

    def again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For a block that is computed twice: the second time as in the ride of the first."""
        riding = self.riding
        return nullcontext(), self._seated(riding.patches, riding.text, riding.table)

    @contextmanager
    def _seated(self, patches: Runs, text: Runs, table: Runs) -> Iterator[None]:
        riding = self.riding
        before = riding.patches, riding.text, riding.table
        riding.patches, riding.text, riding.table = patches, text, table
        try:
            yield
        finally:
            riding.patches, riding.text, riding.table = before

    def remove(self) -> None:
        """Put the network's own layers back."""
        for path, trained in self._swapped.items():
            parent, _, name = path.rpartition(".")
            setattr(self.network.get_submodule(parent), name, trained.layer)
        self._swapped.clear()

    def _trained(self, target: Target) -> Trained:
        if target.ours not in self._swapped:
            layer = self.network.get_submodule(target.ours)
            parent, _, name = target.ours.rpartition(".")
            trained = Trained(layer, target.ours, target.parts, self.riding)
            setattr(self.network.get_submodule(parent), name, trained)
            self._swapped[target.ours] = trained
        return self._swapped[target.ours]


def runs(lengths: Sequence[int], roles: Sequence[str | None]) -> Runs:
    """Rows of each run of neighbours with the same role."""
    found, start = [], 0
    for role, group in groupby(zip(lengths, roles, strict=True), key=lambda pair: pair[1]):
        stop = start + sum(length for length, _ in group)
        found.append((slice(start, stop), role))
        start = stop
    return found
