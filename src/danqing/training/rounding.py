"""What eight bits do to the velocity, against the weights as they are in the files.

The unrounded weights are read again, matrix by matrix, while the network runs: it never takes the
memory that it was put into eight bits to save.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from danqing.models.transformer import Transformer
from danqing.training.loss import Example, lay_out, velocities
from danqing.training.memory import Quantised
from danqing.weights.files import TensorFiles
from danqing.weights.loader import read_into
from danqing.weights.model import STEMS, names_of
from danqing.weights.names import Names


@torch.no_grad()
def rounding(network: Transformer, folder: Path, examples: Sequence[Example]) -> float:
    """The error of the velocities of these examples, as a share of them (root mean square).

    Args:
        network: with blocks in eight bits, as it was loaded; nothing else is in their places.
        folder: of the model.
    """
    layout = lay_out(examples)
    rounded = torch.cat(velocities(network, examples, layout))
    with exact(network, folder):
        whole = torch.cat(velocities(network, examples, layout))
    return float((rounded - whole).norm() / whole.norm())


@contextmanager
def exact(network: Transformer, folder: Path) -> Iterator[None]:
    """While it lasts, the network computes with the weights of the files."""
    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, Quantised)]
    with TensorFiles(folder / "transformer", STEMS["transformer"]) as files:
        names = names_of("transformer", files)
        for name, layer in layers:
            layer.exact = partial(read_weight, f"{name}.weight", layer, files, names)
        try:
            yield
        finally:
            for _, layer in layers:
                layer.exact = None


def read_weight(name: str, layer: Quantised, files: TensorFiles, names: Names) -> Tensor:
    empty = torch.empty(layer.q.shape, dtype=layer.dtype, device=layer.q.device)
    return read_into(empty, files, names.in_file(name))
