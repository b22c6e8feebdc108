"""An adapter beside a frozen layer: y = W x + b + sum over adapters of s B (A x).

Each rider of a pack has its own adapters, so a layer adds to some rows of its output and leaves the
others as they are. The bits of a row do not depend on its neighbours or on the number of threads:
ranks are filled up to a multiple of ``MIN_ROWS`` and short matrices to that many rows, as in
``models.linear``, because products of other sizes have seams where they do.

Axes: T rows (tokens) of the pack, R rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.adapters.adapter import Update, bias_change, change, delta, gain
from danqing.models.linear import MIN_ROWS, linear
from danqing.models.transformer import FusedLinear, RMSNorm


@dataclass(frozen=True, eq=False)
class Up:
    """The second half of a low-rank update of some columns of the layer's output."""

    columns: slice
    ranks: slice  # its part of the stacked products A x
    weight: Tensor  # [out, R]
    factor: float
    excess: Tensor | None  # DoRA: gain - 1, [out]


@dataclass(frozen=True, eq=False)
class Whole:
    """An update that is no product of two slim matrices: its matrix is made when it is used."""

    columns: slice
    update: Update


@dataclass(frozen=True, eq=False)
class Beside:
    """All that one adapter does to one of our layers (query, key and value are one layer)."""

    down: Tensor | None  # [sum of R, in], stacked
    ups: tuple[Up, ...]
    wholes: tuple[Whole, ...]
    biases: tuple[tuple[slice, Tensor], ...]

    @property
    def bytes(self) -> int:
        tensors = [t for t in (self.down, *(up.weight for up in self.ups)) if t is not None]
        wholes = sum(whole.update.bytes for whole in self.wholes)
        return wholes + sum(t.numel() * t.element_size() for t in tensors)


Rider = tuple[slice, Sequence[tuple[Beside, float]]]  # rows, and the adapters with their strengths


class Adapted(nn.Module):
    """Stands in for a layer while some rows of its input have adapters."""

    def __init__(self, layer: nn.Module, riders: Sequence[Rider]) -> None:
        super().__init__()
        self.layer = layer
        self.riders = riders

    @property
    def weight(self) -> Tensor:
        return self.layer.weight  # type: ignore[return-value]

    def forward(self, x_TD: Tensor) -> Tensor:
        return self._add(self.layer(x_TD), x_TD, first=0)

    def without_first_third(self, x_TD: Tensor) -> Tensor:
        layer = cast(FusedLinear, self.layer)
        first = layer.out_features // 3
        return self._add(layer.without_first_third(x_TD), x_TD, first=first)

    def _add(self, y: Tensor, x: Tensor, first: int) -> Tensor:
        """``y`` with the riders' updates; its columns begin at the layer's column ``first``."""
        for rows, mix in self.riders:
            own, before = y[rows], None
            if any(up.excess is not None for beside, _ in mix for up in beside.ups):
                before = own.clone()  # DoRA scales what the layer alone gives
            for beside, strength in mix:
                add_beside(own, x[rows], before, beside, strength, self.layer, first)
        return y


def add_beside(
    y: Tensor,
    x: Tensor,
    before: Tensor | None,
    beside: Beside,
    strength: float,
    layer: nn.Module,
    first: int,
) -> None:
    """Add one adapter's updates to the rows ``y`` in place, without its columns before ``first``.

    ``before`` is what the layer alone gave for these rows.
    """
    if beside.down is not None:
        h = linear(x, beside.down, None)
        for up in beside.ups:
            if up.columns.start < first:
                continue
            columns = shifted(up.columns, first)
            add_product(y[:, columns], h[:, up.ranks], up.weight, strength * up.factor)
            if up.excess is not None and before is not None:
                plain = before[:, columns] - layer.bias[up.columns]  # type: ignore[index]
                y[:, columns].add_(plain * up.excess, alpha=strength)
    for whole in beside.wholes:
        if isinstance(layer, RMSNorm):
            own = whole.update.parts["diff"]
            y.add_(F.rms_norm(x, own.shape, own, 1e-6), alpha=strength)
        elif whole.columns.start >= first:
            matrix = change(whole.update, layer.weight[whole.columns])  # type: ignore[index]
            add_product(y[:, shifted(whole.columns, first)], x, matrix.to(x.dtype), strength)
    for columns, bias in beside.biases:
        if columns.start >= first:
            y[:, shifted(columns, first)].add_(bias, alpha=strength)


def shifted(columns: slice, first: int) -> slice:
    return slice(columns.start - first, columns.stop - first)


def add_product(y: Tensor, x: Tensor, weight: Tensor, factor: float) -> None:
    """y += factor x weight^T, in place."""
    rows = x.shape[0]
    if rows >= MIN_ROWS:
        y.addmm_(x, weight.T, alpha=factor)
        return
    missing = (0, 0, 0, MIN_ROWS - rows)
    y.copy_(torch.addmm(F.pad(y, missing), F.pad(x, missing), weight.T, alpha=factor)[:rows])


# ---- from updates -----------------------------------------------------------------------------


def make_beside(layer: nn.Module, parts: int, updates: Sequence[tuple[int, Update]]) -> Beside:
    """What these updates do to ``layer``, each to part ``index`` of ``parts`` of its output.

    The result lies on the layer's device, in its dtype.
    """
    weight: Tensor = layer.weight  # type: ignore[assignment]
    width = weight.shape[0] // parts
    downs, ups, wholes, biases, filled = [], [], [], [], 0
    for index, update in updates:
        columns = slice(index * width, (index + 1) * width)
        placed = update.to(weight.device, weight.dtype)
        if (bias := bias_change(update)) is not None:
            biases.append((columns, bias.to(weight.device, weight.dtype)))
        if is_slim(update):
            down, up, rank = filled_up(placed.parts["down"], placed.parts["up"])
            factor, excess = update.scale, None
            if update.magnitude is not None:
                up, excess = decomposed(update, weight[columns], up)
            downs.append(down)
            ups.append(Up(columns, slice(filled, filled + rank), up, factor, excess))
            filled += rank
        elif update.shape is not None:
            wholes.append(Whole(columns, placed))
    stacked = torch.cat(downs) if downs else None
    return Beside(stacked, tuple(ups), tuple(wholes), tuple(biases))


def is_slim(update: Update) -> bool:
    """Whether the update can run as two slim matrices."""
    magnitude = update.magnitude
    return update.kind == "lora" and (magnitude is None or magnitude.ndim == 1)


def filled_up(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor, int]:
    """Both matrices with zeros up to a rank that is a multiple of ``MIN_ROWS``."""
    rank = down.shape[0]
    more = -rank % MIN_ROWS
    return F.pad(down, (0, 0, 0, more)), F.pad(up, (0, more)).contiguous(), rank + more


def decomposed(update: Update, weight: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """DoRA: W' x = g (W x) + g s B (A x), so B takes the gain and W x the rest of it."""
    moved = weight.float() + delta(update).to(weight.device)
    magnitude = update.parts["magnitude"].float().to(weight.device)
    g = gain(magnitude, moved)
    return (up.float() * g).to(up.dtype), (g[:, 0] - 1).to(weight.dtype)
