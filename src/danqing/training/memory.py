"""Less memory for the same step: blocks computed twice, and frozen weights in eight bits.

Both are put on a built network from outside; ``models`` knows nothing of them. And a word with the
C library, which on a CPU would keep as much again.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, noop_context_fn

from danqing.errors import TrainingError
from danqing.models.linear import Linear, linear
from danqing.models.transformer import Block, Transformer
from danqing.training.trainable import Trained

QUANTISED = {"int8": torch.int8, "float8": torch.float8_e4m3fn}
LARGEST = {"int8": 127.0, "float8": 448.0}
Contexts = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]
M_MMAP_THRESHOLD, APART = -3, 256 * 1024  # glibc's number of the option, and bytes


# ---- activations ------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    """A block whose activations are dropped, and computed again for its gradient.

    ``again`` gives the contexts that a block is computed in, the first time and the second.
    """

    def __init__(self, block: Block, again: Contexts) -> None:
        super().__init__()
        self.block = block
        self._again = again

    def __getattr__(self, name: str) -> Any:
        if name in ("img", "txt"):  # the table's weights are reached through the block
            return getattr(self.block, name)
        return super().__getattr__(name)

    def forward(self, *inputs: Any) -> Any:
        return self._checkpoint(self.block, *inputs)

    def finish(self, *inputs: Any) -> Any:
        return self._checkpoint(self.block.finish, *inputs)

    def _checkpoint(self, work: Callable[..., Any], *inputs: Any) -> Any:
        return checkpoint(work, *inputs, use_reentrant=False, context_fn=self._again)


def checkpoint_blocks(network: Transformer, again: Contexts = noop_context_fn) -> None:
    blocks = cast(nn.ModuleList, network.blocks)
    for i, block in enumerate(network.blocks):
        blocks[i] = Checkpointed(block, again)


def plain_blocks(network: Transformer) -> None:
    """The network as it was before ``checkpoint_blocks``, if that was called."""
    blocks = cast(nn.ModuleList, network.blocks)
    for i, block in enumerate(blocks):
        if isinstance(block, Checkpointed):
            blocks[i] = block.block


# ---- weights ----------------------------------------------------------------------------------


class Quantised(nn.Module):
    """A frozen linear layer with one scale per output: W = scale q, q in eight bits.

    The weight is made whole for each product and dropped again, in the gradient as well. A layer on
    the meta device may be swapped before it is loaded: a weight becomes eight bits when it is
    assigned, so that the network is never whole in memory.
    """

    q: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear, kind: str) -> None:
        super().__init__()
        self.kind = kind
        # By this name and shape the loader and ``targets`` know the layer.
        nameplate = torch.empty(layer.weight.shape, device="meta", dtype=layer.weight.dtype)
        self.register_parameter("weight", nn.Parameter(nameplate, requires_grad=False))
        self.weight = layer.weight  # type: ignore[misc]  # __setattr__ takes it
        self.bias = layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.exact: Callable[[], Tensor] | None = None  # gives the unrounded weight, to compare

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "weight":
            super().__setattr__(name, value)
            return
        self.dtype = value.dtype
        q, scale = quantise(value.detach(), self.kind)
        self.register_buffer("q", q)
        self.register_buffer("scale", scale)

    @property
    def weight(self) -> Tensor:
        """Made whole, in the dtype that it came in."""
        return whole(self.q, self.scale, self.dtype)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self._product(x_TD, 0)

    def without_first_third(self, x_TD: Tensor) -> Tensor:
        return self._product(x_TD, self.out_features // 3)

    def _product(self, x_TD: Tensor, first: int) -> Tensor:
        bias = self.bias[first:]
        if self.exact is not None:
            return linear(x_TD, self.exact()[first:], bias)
        return Product.apply(x_TD, self.q[first:], self.scale[first:], bias)


class Product(torch.autograd.Function):
    """x W^T + b, keeping the eight bits for the gradient and not the whole weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, q: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(q, scale)
        return linear(x, whole(q, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        q, scale = ctx.saved_tensors
        return grad @ whole(q, scale, grad.dtype), None, None, None


def quantise(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Eight bits and the scale of each row, float32 [out, 1]."""
    wide = weight.float()
    scale = wide.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / LARGEST[kind]
    q = wide / scale
    return (q.round_() if kind == "int8" else q).to(QUANTISED[kind]), scale


def whole(q: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return q.to(dtype).mul_(scale.to(dtype))


def quantise_blocks(network: Transformer, kind: str) -> int:
    """Swap the blocks' linear layers; how many. Norms, embedders and the ends stay as they are."""
    if kind not in QUANTISED:
        raise TrainingError(f"quantisation {kind!r} is not known; choose {', '.join(QUANTISED)}")
    count = 0
    for block in network.blocks:
        for stream in (block.img, block.txt):
            for parent, name, layer in linear_layers(stream):
                setattr(parent, name, Quantised(layer, kind))
                count += 1
    return count


def linear_layers(stream: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Parent, name and layer of the stream's linear layers, those behind an adapter included."""
    for name, layer in list(stream.named_children()):
        parent = stream
        if isinstance(layer, Trained):
            parent, name, layer = layer, "layer", layer.layer
        if isinstance(layer, Linear):
            yield parent, name, layer


# ---- the C library ----------------------------------------------------------------------------


def lay_large_tensors_apart() -> None:
    """Have the C library map every large tensor by itself, and unmap it when it is freed.

    By default it lays tensors of up to 32 MiB into its heap, where an aligned block that was freed
    does not serve another one of its size (glibc before 2.38): 486 MB were taken for 234 MB of
    activations, and 1420 MB to read a network of 295 MB in eight bits.
    """
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, APART)
