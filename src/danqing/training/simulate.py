"""A step without memory: how much it would take, tensor by tensor.

The network is built of tensors that have shapes and lifetimes but no content (torch's fake
tensors), a step is made with it, and what lives at each moment is added up. What a kernel takes
for itself while it runs is not seen.
"""

import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from danqing.models.transformer import Transformer, TransformerConfig
from danqing.training.loss import Example, image_losses, lay_out, velocities
from danqing.training.memory import checkpoint_blocks, quantise_blocks
from danqing.training.settings import Settings
from danqing.training.subject import FullSubject, LoraSubject
from danqing.weights.files import dtype_named

FEW, MORE = 2, 3  # blocks; memory grows by the same for each further one


class Watch(TorchDispatchMode):
    """Adds up the bytes of all storages that live but the ``known``; keeps the most that did."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet(t.untyped_storage() for t in known)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size


def step_bytes(
    config: TransformerConfig, settings: Settings, examples: Iterable[tuple[int, int, int]]
) -> int:
    """The most that a step takes beyond weights and optimiser: activations and gradients.

    ``examples`` are (rows, columns, text tokens) of the pictures of one pack.
    """
    shapes = list(examples)
    few, more = (simulate(replace(config, num_layers=n), settings, shapes) for n in (FEW, MORE))
    return few + (config.num_layers - FEW) * (more - few)


def simulate(
    config: TransformerConfig, settings: Settings, shapes: list[tuple[int, int, int]]
) -> int:
    dtype = torch.float32 if settings.kind == "full" else dtype_named(settings.dtype or "float32")
    with FakeTensorMode():
        network = built(config, dtype)
        make = LoraSubject if settings.kind == "lora" else FullSubject
        subject = make(network, settings)
        if settings.quantise != "none":
            quantise_blocks(network, settings.quantise)
        if settings.checkpointing:
            checkpoint_blocks(network)
        pack = [example(config, *shape, dtype) for shape in shapes]
        layout = lay_out(pack)
        there = [*network.parameters(), *network.buffers()]
        with Watch(there) as watch, subject.ride(layout, [True] * len(pack)):
            found = velocities(network, pack, layout)
            image_losses(found, [e.velocity for e in pack], pack).mean().backward()
    return watch.peak


def built(config: TransformerConfig, dtype: torch.dtype) -> Transformer:
    """Made in the dtype, since fake weights cannot be converted in place."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return Transformer(config).requires_grad_(False)
    finally:
        torch.set_default_dtype(usual)


def example(
    config: TransformerConfig, rows: int, columns: int, text: int, dtype: torch.dtype
) -> Example:
    patches = (rows * columns, config.in_channels)
    features = torch.empty(text, config.joint_attention_dim, dtype=dtype)
    return Example(torch.empty(patches), torch.empty(patches), rows, columns, features, 0.5)
