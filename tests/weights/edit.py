"""Damage and changes to the weights files of a model folder."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from danqing.weights import model
from danqing.weights.files import TensorFiles
from danqing.weights.model import STEMS

Tensors = dict[str, Tensor]


def weights_file(folder: Path, component: str) -> Path:
    return folder / component / f"{STEMS[component]}.safetensors"


def edit(folder: Path, component: str, change: Callable[[Tensors], object]) -> Path:
    """Let ``change`` work on the tensors of a component's file."""
    path = weights_file(folder, component)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return path


def rename(folder: Path, component: str, new: Callable[[str], str]) -> None:
    path = weights_file(folder, component)
    save_file({new(name): tensor for name, tensor in load_file(path).items()}, path)


def loaded(folder: Path, component: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """One network, filled from the folder."""
    network = model.build(folder)[component]
    model.fill(component, network, folder, torch.device("cpu"), dtype)
    return network


def names_in(folder: Path, component: str) -> set[str]:
    with TensorFiles(folder / component, STEMS[component]) as files:
        return set(files.home)


def same(a: nn.Module, b: nn.Module) -> bool:
    """All parameters equal, bit for bit."""
    ours, others = dict(a.named_parameters()), dict(b.named_parameters())
    return ours.keys() == others.keys() and all(torch.equal(ours[n], others[n]) for n in ours)
