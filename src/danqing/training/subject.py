"""What is trained: an adapter beside the frozen network, or all weights of the network itself."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import nn

from danqing.adapters.adapter import Adapter
from danqing.adapters.targets import targets
from danqing.models.layout import Layout
from danqing.models.transformer import Transformer
from danqing.training.settings import Settings, chosen_layers
from danqing.training.trainable import Shape, Trainables

ROLE = "adapter"


class Subject(Protocol):
    """The trained part of a network, as the loop sees it."""

    network: Transformer

    def parameters(self) -> dict[str, nn.Parameter]:
        """What the optimiser changes, by name."""
        ...

    def ride(self, layout: Layout, on: Sequence[bool]) -> AbstractContextManager[None]:
        """While it lasts, the segments that are on have what is trained, the others the base."""
        ...


class LoraSubject:
    """An adapter in training; the base stays as it is."""

    def __init__(self, network: Transformer, settings: Settings) -> None:
        self.network = network.requires_grad_(False)
        layers = chosen_layers(settings.targets, targets(network))
        self.trainables = Trainables(network)
        self.trainables.add(ROLE, layers, shape_of(settings), settings.seed)
        self.trainables.riding.usual = ROLE

    def parameters(self) -> dict[str, nn.Parameter]:
        return self.trainables.parameters(ROLE)

    def ride(self, layout: Layout, on: Sequence[bool]) -> AbstractContextManager[None]:
        return self.trainables.ride(layout, [ROLE if one else None for one in on])

    def adapter(self) -> Adapter:
        return self.trainables.adapter(ROLE)


class FullSubject:
    """All weights of the transformer, in float32. It has no base to go back to."""

    def __init__(self, network: Transformer, settings: Settings) -> None:
        self.network = network.float().requires_grad_(True)

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def ride(self, layout: Layout, on: Sequence[bool]) -> AbstractContextManager[None]:
        return nullcontext()


def shape_of(settings: Settings) -> Shape:
    alpha = settings.rank if settings.alpha is None else settings.alpha
    return Shape(settings.rank, float(alpha), settings.rank_stabilised, settings.dora)
