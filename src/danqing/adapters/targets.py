"""The layers that an adapter can change: their published names, and where they are in our network.

The names come from the table that loads checkpoints (``weights.names``), so that a layer has one
name here and in a model's files. Names in adapter files come flattened as well, with underscores
in place of dots.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch import nn

from danqing.adapters.adapter import Adapter
from danqing.adapters.refusal import listed
from danqing.errors import AdapterError
from danqing.weights.names import NAMES, TRANSFORMER


@dataclass(frozen=True)
class Target:
    """A published layer in our network: part ``index`` of ``parts`` of the layer ``ours``.

    ``weight`` is the shape of the part's weight: [out, in], or [D] for a norm.
    """

    ours: str
    index: int
    parts: int
    weight: tuple[int, ...]
    has_bias: bool


def published(name: str) -> str | None:
    """The published name of a layer that is spelled with dots or with underscores, if it is one."""
    for pattern, template in patterns():
        if match := pattern.fullmatch(name):
            return template.format(i=int(match["i"])) if "i" in pattern.groupindex else template
    return None


@lru_cache(maxsize=1)
def patterns() -> list[tuple[re.Pattern[str], str]]:
    """Every layer's name as a pattern, and as a template for its number."""
    found = []
    for template in sorted({layer_of(name) for parts in TRANSFORMER.values() for name in parts}):
        if "embedding" in template:  # a row of it is added to the time, it is no layer
            continue
        pattern = re.escape(template).replace(re.escape("{i}"), "(?P<i>[0-9]{1,4})")
        found.append((re.compile(pattern.replace(r"\.", "[._]")), template))
    return found


def layer_of(tensor: str) -> str:
    """``a.b`` of ``a.b.weight`` or of the table's ``a.b.{p}``."""
    return tensor.rpartition(".")[0]


def targets(network: nn.Module) -> dict[str, Target]:
    """All layers of a transformer that an adapter can change, by published name."""
    found = {}
    biased = {layer_of(name) for name, _ in network.named_parameters() if name.endswith(".bias")}
    for name, parameter in network.named_parameters():
        if not name.endswith(".weight") or ".additional." in name:
            continue
        ours, theirs = layer_of(name), NAMES["transformer"].in_file(name)
        shape = (parameter.shape[0] // len(theirs), *parameter.shape[1:])
        for index, tensor in enumerate(theirs):
            found[layer_of(tensor)] = Target(ours, index, len(theirs), shape, ours in biased)
    return found


def check_fit(adapter: Adapter, known: Mapping[str, Target], name: str, model: str) -> None:
    """AdapterError unless every update fits its layer of this model."""
    faults = list(misfits(adapter, known))
    if faults:
        raise AdapterError(
            f"adapter {name} does not fit {model}: {listed(faults)}; it was made for another model"
        )


def misfits(adapter: Adapter, known: Mapping[str, Target]) -> Iterator[str]:
    for layer, update in adapter.updates.items():
        target = known.get(layer)
        if target is None:
            yield f"the model has no layer {layer}"
            continue
        if update.shape is not None and update.shape != target.weight:
            yield f"{layer} is for a weight {list(update.shape)}, here {list(target.weight)}"
        for part in ("bias", "up_bias", "magnitude"):
            found = update.parts.get(part)
            if found is not None and tuple(found.shape) not in part_shapes(part, target):
                yield f"{layer} has a {part} {list(found.shape)} for a weight {list(target.weight)}"


def part_shapes(part: str, target: Target) -> set[tuple[int, ...]]:
    """The shapes that a vector beside a weight may have."""
    out = target.weight[0]
    if part == "magnitude":
        return {(out,), (1, *target.weight[1:])} if len(target.weight) == 2 else set()
    return {(out,)} if target.has_bias else set()
