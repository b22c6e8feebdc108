"""Adapters in a transformer: which rows of which layer get which update, for as long as it lasts.

Layers are swapped for ``Adapted`` ones on entering and put back on leaving. The weights are never
touched, so what was added and removed again has left no trace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Self

from torch import nn

from danqing.adapters.adapter import Adapter, Update
from danqing.adapters.linear import Adapted, Beside, Rider, make_beside
from danqing.adapters.targets import Target
from danqing.models.layout import Layout
from danqing.models.transformer import Modulation, Transformer


@dataclass(frozen=True, eq=False)
class Bound:
    """An adapter made ready for one network: what it does to each of our layers, by its name."""

    layers: Mapping[str, Beside]
    digest: str = ""  # of the file

    @property
    def table(self) -> bool:
        """Whether it changes the modulation table."""
        return any(on_table(layer) for layer in self.layers)

    @property
    def bytes(self) -> int:
        return sum(beside.bytes for beside in self.layers.values())


Mix = tuple[tuple[Bound, float], ...]  # the adapters of one image, with their strengths


def bind(adapter: Adapter, network: nn.Module, known: Mapping[str, Target], digest: str) -> Bound:
    """The adapter on the network's device and in its dtype; it must fit (``check_fit``)."""
    grouped: dict[str, list[tuple[int, Update]]] = {}
    for layer, update in adapter.updates.items():
        grouped.setdefault(known[layer].ours, []).append((known[layer].index, update))
    parts = {target.ours: target.parts for target in known.values()}
    layers = {
        ours: make_beside(
            network.get_submodule(ours), parts[ours], sorted(group, key=itemgetter(0))
        )
        for ours, group in grouped.items()
    }
    return Bound(layers, digest)


class Injection:
    """A context in which the riders of a pack have their adapters.

    Args:
        network: the transformer.
        layout: the pack's segments.
        mixes: the adapters of each segment.
    """

    def __init__(self, network: Transformer, layout: Layout, mixes: Sequence[Mix]) -> None:
        names = dict.fromkeys(n for mix in mixes for b, _ in mix for n in b.layers)
        img, txt = runs(layout.patch_lengths, mixes), runs(layout.text_lengths, mixes)
        riders = {n: riding(n, txt if on_text(n) else img) for n in names if not on_table(n)}
        self._swaps = swaps(network, riders)

    def __enter__(self) -> Self:
        for parent, name, _, adapted in self._swaps:
            setattr(parent, name, adapted)
        return self

    def __exit__(self, *_: object) -> None:
        for parent, name, layer, _adapted in self._swaps:
            setattr(parent, name, layer)


class TableInjection(Injection):
    """As ``Injection``, for the layers that make the modulation table: all rows have one mix."""

    def __init__(self, network: Transformer, mix: Mix) -> None:
        names = dict.fromkeys(n for bound, _ in mix for n in bound.layers if on_table(n))
        self._swaps = swaps(network, {n: riding(n, [(slice(None), mix)]) for n in names})


def bake(network: Transformer, sigmas: Sequence[float], mix: Mix) -> Modulation:
    """The modulation table with adapters: an update there is a vector added to a row."""
    with TableInjection(network, mix):
        return network.bake(sigmas)


def swaps(
    network: nn.Module, riders: Mapping[str, list[Rider]]
) -> list[tuple[nn.Module, str, nn.Module, Adapted]]:
    """Parent, name, layer and its stand-in, of each layer that some rider adapts."""
    found = []
    for path, of_layer in riders.items():
        parent, _, name = path.rpartition(".")
        layer = network.get_submodule(path)
        found.append((network.get_submodule(parent), name, layer, Adapted(layer, of_layer)))
    return found


def riding(layer: str, rows: Sequence[tuple[slice, Mix]]) -> list[Rider]:
    """The rows whose mix adapts this layer, with what it does there."""
    riders: list[Rider] = []
    for own, mix in rows:
        besides = [(bound.layers[layer], s) for bound, s in mix if layer in bound.layers]
        if besides:
            riders.append((own, besides))
    return riders


def runs(lengths: Sequence[int], mixes: Sequence[Mix]) -> list[tuple[slice, Mix]]:
    """Rows of each run of neighbours with the same mix, where there is one."""
    found, start = [], 0
    pairs = zip(lengths, mixes, strict=True)
    for mix, group in groupby(pairs, key=lambda pair: pair[1]):
        stop = start + sum(length for length, _ in group)
        if mix:
            found.append((slice(start, stop), mix))
        start = stop
    return found


def on_text(layer: str) -> bool:
    """Whether the layer's rows are text tokens."""
    return ".txt." in layer or layer.startswith("txt_")


def on_table(layer: str) -> bool:
    """Whether the layer's rows are those of the modulation table."""
    return layer.startswith(("time_in.", "norm_out")) or layer.endswith(".mod")
