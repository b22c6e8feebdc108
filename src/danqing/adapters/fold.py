"""Adapters into the weights of a network that is in memory; ``merge`` does it with files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from danqing.adapters.adapter import Adapter, bias_change, change
from danqing.adapters.targets import Target
from danqing.models.transformer import Transformer


@torch.no_grad()
def fold(
    network: Transformer, adapters: Sequence[tuple[Adapter, float]], known: Mapping[str, Target]
) -> None:
    """Add adapters that fit (``check_fit``), each with its strength.

    Their changes are of the weights as they were, summed in float32 on the CPU in the order given,
    and rounded once to the network's dtype.
    """
    for layer in sorted({layer for adapter, _ in adapters for layer in adapter.updates}):
        target = known[layer]
        module = network.get_submodule(target.ours)
        rows = slice(target.index * target.weight[0], (target.index + 1) * target.weight[0])
        weight = cast(Tensor, module.weight)[rows]
        plain = weight.cpu()
        updates = [(a.updates[layer], s) for a, s in adapters if layer in a.updates]
        add(weight, [(change(u, plain), s) for u, s in updates if u.shape])
        if any(bias_change(u) is not None for u, _ in updates):
            bias = cast(Tensor, module.bias)[rows]
            add(bias, [(bias_change(u), s) for u, s in updates])


def add(own: Tensor, parts: Iterable[tuple[Tensor | None, float]]) -> None:
    """``own`` becomes the sum, in place."""
    total = own.float().cpu()
    for part, strength in parts:
        if part is not None:
            total = total + strength * part.cpu()
    own.copy_(total)
