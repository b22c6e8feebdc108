"""Canonical adapters with random values for the tiny transformer."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from danqing.adapters.adapter import Adapter, Update
from danqing.adapters.targets import Target, targets
from tests import tiny

TARGETS: Mapping[str, Target] = targets(tiny.transformer())
MATRICES = [name for name, target in TARGETS.items() if len(target.weight) == 2]
SIZE = 0.1  # of the values: an update of about a weight's size


class Draw:
    """Random tensors, one after the other from one seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return SIZE * torch.randn(shape, generator=self._generator)


Make = Callable[[Draw, Target, int], Update]


def lora(draw: Draw, target: Target, rank: int) -> Update:
    out, width = target.weight
    return Update({"down": draw(rank, width), "up": draw(out, rank)}, 2.0 * rank)


def dora(draw: Draw, target: Target, rank: int) -> Update:
    plain = lora(draw, target, rank)
    return replace(plain, parts={**plain.parts, "magnitude": 1 + draw(target.weight[0])})


def dora_over_input(draw: Draw, target: Target, rank: int) -> Update:
    plain = lora(draw, target, rank)
    return replace(plain, parts={**plain.parts, "magnitude": 1 + draw(1, target.weight[1])})


def with_bias(draw: Draw, target: Target, rank: int) -> Update:
    plain = lora(draw, target, rank)
    return replace(plain, parts={**plain.parts, "bias": draw(target.weight[0])})


def with_up_bias(draw: Draw, target: Target, rank: int) -> Update:
    plain = lora(draw, target, rank)
    return replace(plain, parts={**plain.parts, "up_bias": draw(target.weight[0])})


def loha(draw: Draw, target: Target, rank: int) -> Update:
    out, width = target.weight
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    shapes = ((out, rank), (rank, width)) * 2
    return Update({n: 3 * draw(*s) for n, s in zip(names, shapes, strict=True)}, float(rank))


def lokr(draw: Draw, target: Target, rank: int) -> Update:
    out, width = target.weight
    parts = {"lokr_w1": draw(4, 8), "lokr_w2_a": draw(out // 4, rank)}
    return Update({**parts, "lokr_w2_b": draw(rank, width // 8)}, 3.0 * rank)


def whole_lokr(draw: Draw, target: Target, rank: int) -> Update:
    out, width = target.weight
    return Update({"lokr_w1": draw(out // 8, 4), "lokr_w2": draw(8, width // 4)})


def full(draw: Draw, target: Target, rank: int) -> Update:
    return Update({"diff": draw(*target.weight)})


KINDS: dict[str, Make] = {
    "lora": lora,
    "dora": dora,
    "dora_over_input": dora_over_input,
    "with_bias": with_bias,
    "with_up_bias": with_up_bias,
    "loha": loha,
    "lokr": lokr,
    "whole_lokr": whole_lokr,
    "full": full,
}


def adapter(kind: str = "lora", rank: int = 4, seed: int = 0, only: str = "") -> Adapter:
    """One on every layer whose name holds ``only``."""
    draw = Draw(seed)
    names = [name for name in MATRICES if only in name]
    return Adapter({name: KINDS[kind](draw, TARGETS[name], rank) for name in names})


def equal(a: Adapter, b: Adapter) -> bool:
    """Whether both have the same tensors and scales, bit for bit."""
    return set(a.updates) == set(b.updates) and all(
        same(update, b.updates[layer]) for layer, update in a.updates.items()
    )


def same(a: Update, b: Update) -> bool:
    parts = set(a.parts) == set(b.parts) and all(
        part.dtype == b.parts[name].dtype and torch.equal(part, b.parts[name])
        for name, part in a.parts.items()
    )
    return parts and a.scale == b.scale
