"""Filling a network that was built on the meta device, tensor by tensor, strictly.

Missing, unexpected and misshapen tensors are errors that name tensor, file, expected and found.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from danqing.errors import WeightsError
from danqing.weights.files import TensorFiles, write_tensors
from danqing.weights.names import Names

Fold = Callable[[Tensor], Tensor]
Shape = tuple[int, ...]
Shapes = Callable[[str, Shape], tuple[Shape, ...]]  # that a tensor may have in a file
Unfold = Callable[[str, Tensor], Tensor]


def build(network: Callable[[], nn.Module]) -> nn.Module:
    """A network without memory for its weights, and without the work of initialising them."""
    with torch.device("meta"), SkipInit():
        return network().requires_grad_(False).eval()


class SkipInit(TorchFunctionMode):
    """Leaves out ``torch.nn.init``, which on the meta device only imports the compiler (2.7 s)."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def fill(
    network: nn.Module,
    files: TensorFiles,
    names: Names,
    *,
    dtype: torch.dtype,
    device: torch.device,
    fold: Fold = lambda tensor: tensor,
    shapes_in_files: Shapes = lambda name, shape: (shape,),
) -> None:
    """Read every parameter of ``network`` from ``files``, converted to ``dtype`` on ``device``."""
    wanted = {ours: names.in_file(ours) for ours, _ in network.named_parameters()}
    check_names(files, wanted, names)
    for ours, parameter in list(network.named_parameters()):
        check_shapes(files, ours, wanted[ours], tuple(parameter.shape), shapes_in_files)
        tensor = torch.empty(parameter.shape, dtype=dtype, device=device)
        assign(network, ours, read_into(tensor, files, wanted[ours], fold))


def read_into(
    tensor: Tensor, files: TensorFiles, parts: tuple[str, ...], fold: Fold = lambda tensor: tensor
) -> Tensor:
    """Fill a parameter from the parts that it has in the files, one above the other."""
    for own, name in zip(tensor.chunk(len(parts)), parts, strict=True):
        own.copy_(fold(files.read(name)))
    return tensor


def check_names(files: TensorFiles, wanted: dict[str, tuple[str, ...]], names: Names) -> None:
    known = {name for parts in wanted.values() for name in parts}
    missing = sorted(known - set(files.home))
    if missing:
        raise WeightsError(f"{files.folder} lacks {listed(missing)}; fetch the folder again")
    unexpected = sorted(n for n in set(files.home) - known if not names.skipped(n))
    if unexpected:
        where = files.home[unexpected[0]]
        raise WeightsError(
            f"{where} has {listed(unexpected)}, which the configuration does not expect"
        )


def check_shapes(
    files: TensorFiles,
    ours: str,
    parts: tuple[str, ...],
    shape: Shape,
    shapes_in_files: Shapes,
) -> None:
    allowed = shapes_in_files(ours, (shape[0] // len(parts), *shape[1:]))
    for name in parts:
        found = files.shape(name)
        if found not in allowed:
            raise WeightsError(
                f"{files.home[name]}: {name} has shape {list(found)}, expected {list(allowed[0])} "
                "by the configuration"
            )


def assign(network: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, last = name.rpartition(".")
    setattr(network.get_submodule(path), last, nn.Parameter(tensor, requires_grad=False))


def listed(names: list[str]) -> str:
    """At most three names, and the count."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more tensors"


def save(
    network: nn.Module,
    folder: Path,
    stem: str,
    names: Names,
    *,
    dtype: torch.dtype,
    unfold: Unfold = lambda name, tensor: tensor,
    extra: dict[str, Tensor] | None = None,
) -> None:
    """Write the network under the file's names; the inverse of ``fill``."""

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for ours, parameter in network.named_parameters():
            theirs = names.in_file(ours)
            for name, part in zip(theirs, parameter.detach().chunk(len(theirs)), strict=True):
                yield name, unfold(ours, part.to("cpu", dtype))
        yield from (extra or {}).items()

    write_tensors(folder, stem, tensors())
