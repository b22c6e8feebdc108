"""Networks at work without memory: how much it would take, tensor by tensor.

A network is built of tensors that have shapes and lifetimes but no content (torch's fake tensors),
it is run, and what lives at each moment is added up. What a kernel takes for itself while it runs
is not seen.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from danqing.errors import TrainingError
from danqing.models.layout import Layout
from danqing.models.text_encoder import TextEncoder, TextEncoderConfig
from danqing.models.tiling import encode_tiled
from danqing.models.transformer import Transformer, TransformerConfig
from danqing.models.vae import VAE, VAEConfig
from danqing.training.data.encode import TILE_ABOVE
from danqing.training.loss import Example, image_losses, lay_out, velocities
from danqing.training.memory import checkpoint_blocks, quantise_blocks
from danqing.training.settings import Settings
from danqing.training.subject import LoraSubject
from danqing.weights.files import dtype_named

Shapes = Sequence[tuple[int, int, int]]  # rows, columns and text tokens of each picture of a pack
Ride = Callable[[Layout], AbstractContextManager[None]]
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


# ---- the transformer --------------------------------------------------------------------------


def step_bytes(config: TransformerConfig, settings: Settings, shapes: Shapes) -> int:
    """The most that a step on this pack takes beyond weights and optimiser: activations and
    gradients."""
    return whole(one_step, config, essence(settings), tuple(shapes))


def forward_bytes(config: TransformerConfig, settings: Settings, shapes: Shapes) -> int:
    """The most that an evaluation of the network takes, which keeps nothing for gradients."""
    return whole(one_forward, config, essence(settings), tuple(shapes))


def essence(settings: Settings) -> Settings:
    """The settings with only what counts here, so that others do not make it work again."""
    return Settings(
        kind=settings.kind,
        rank=settings.rank,
        dora=settings.dora,
        targets=settings.targets,
        dtype=settings.dtype,
        quantise=settings.quantise,
        checkpointing=settings.checkpointing,
        accumulate=2 if settings.accumulate > 1 or settings.prior else 1,
    )


@lru_cache(256)
def whole(
    work: Callable[..., None],
    config: TransformerConfig,
    settings: Settings,
    shapes: tuple[tuple[int, int, int], ...],
) -> int:
    """Of a network with all its blocks, from two short ones, or as it is where the layers that
    are trained are in later blocks alone."""
    try:
        few, more = (
            simulate(replace(config, num_layers=n), settings, shapes, work) for n in (FEW, MORE)
        )
    except TrainingError:
        return simulate(config, settings, shapes, work)
    return few + (config.num_layers - FEW) * (more - few)


def simulate(
    config: TransformerConfig,
    settings: Settings,
    shapes: Shapes,
    work: Callable[..., None] | None = None,
) -> int:
    """Of a network with just these blocks; a step, unless it is to do other ``work``."""
    dtype = torch.float32 if settings.kind == "full" else dtype_named(settings.dtype or "float32")
    with FakeTensorMode():
        network = built(lambda: Transformer(config), dtype)
        if settings.quantise != "none":
            quantise_blocks(network, settings.quantise)
        ride = trained(network, settings)
        if settings.checkpointing:
            checkpoint_blocks(network)
        pack = [example(config, *shape, dtype) for shape in shapes]
        with Watch([*network.parameters(), *network.buffers()]) as watch:
            for _ in range(settings.accumulate):
                (work or one_step)(network, pack, ride)
    return watch.peak


def trained(network: Transformer, settings: Settings) -> Ride:
    """Make the network one that is trained; what its packs ride in."""
    if settings.kind == "full":
        network.requires_grad_(True)
        return lambda layout: nullcontext()
    subject = LoraSubject(network, settings)
    return lambda layout: subject.ride(layout, [True] * len(layout.segments))


def one_step(network: Transformer, pack: list[Example], ride: Ride) -> None:
    layout = lay_out(pack)
    with ride(layout):
        found = velocities(network, pack, layout)
    image_losses(found, [e.velocity for e in pack], pack).mean().backward()


@torch.no_grad()
def one_forward(network: Transformer, pack: list[Example], ride: Ride) -> None:
    layout = lay_out(pack)
    with ride(layout):
        velocities(network, pack, layout)


def example(
    config: TransformerConfig, rows: int, columns: int, text: int, dtype: torch.dtype
) -> Example:
    patches = (rows * columns, config.in_channels)
    features = torch.empty(text, config.joint_attention_dim, dtype=dtype)
    return Example(torch.empty(patches), torch.empty(patches), rows, columns, features, 0.5)


# ---- the encoders -----------------------------------------------------------------------------


@lru_cache(256)
def encode_bytes(config: VAEConfig, width: int, height: int, dtype: torch.dtype) -> int:
    """The most that encoding a picture takes; large ones are encoded in tiles."""
    with at_work(lambda: VAE(config), dtype) as (vae, watch):
        pixels = torch.empty(1, 3, height, width, dtype=dtype)
        encode_tiled(vae, pixels) if width * height > TILE_ABOVE else vae.encode(pixels)
    return watch.peak


@lru_cache(256)
def decode_bytes(config: VAEConfig, width: int, height: int, dtype: torch.dtype) -> int:
    with at_work(lambda: VAE(config), dtype) as (vae, watch):
        side = config.factor
        vae.decode(torch.empty(1, config.z_dim, height // side, width // side, dtype=dtype))
    return watch.peak


@lru_cache(256)
def text_bytes(config: TextEncoderConfig, tokens: int, dtype: torch.dtype) -> int:
    """The most that encoding a caption takes; one layer after the other takes the same."""
    with at_work(lambda: TextEncoder(replace(config, num_hidden_layers=1)), dtype) as found:
        network, watch = found
        network(torch.zeros(tokens, dtype=torch.long), [tokens])
    return watch.peak


@contextmanager
def at_work(make: Callable[[], nn.Module], dtype: torch.dtype) -> Iterator[tuple[Any, Watch]]:
    """A network without content, and what counts the bytes that live while it works."""
    with FakeTensorMode(), torch.no_grad():
        network = built(make, dtype)
        with Watch([*network.parameters(), *network.buffers()]) as watch:
            yield network, watch


def built(make: Callable[[], Any], dtype: torch.dtype) -> Any:
    """Made in the dtype, since fake weights cannot be converted in place."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return make().requires_grad_(False).eval()
    finally:
        torch.set_default_dtype(usual)
