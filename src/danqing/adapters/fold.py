"""Adapters into the weights of a network that is in memory; ``merge`` does it with files."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from danqing.adapters.adapter import Adapter, bias_change, change
from danqing.adapters.targets import Target
from danqing.models.transformer import Transformer


@torch.no_grad()
def fold(
    network: Transformer, adapter: Adapter, strength: float, known: Mapping[str, Target]
) -> None:
    """Add an adapter that fits (``check_fit``), in float32, rounded once to the network's dtype."""
    for layer, update in adapter.updates.items():
        target = known[layer]
        module = network.get_submodule(target.ours)
        rows = slice(target.index * target.weight[0], (target.index + 1) * target.weight[0])
        weight = cast(Tensor, module.weight)[rows]
        parts = {"weight": change(update, weight) if update.shape else None,
                 "bias": bias_change(update)}  # fmt: skip
        for name, part in parts.items():
            if part is not None:
                own = getattr(module, name)[rows]
                own.copy_(own.float() + strength * part.to(own.device))
