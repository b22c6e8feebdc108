"""The flow-matching loss of a pack, and the noise levels at which it is taken.

    L = mean over images of w(sigma) mean over patches |v(x_sigma, sigma, text) - (noise - clean)|^2

The gradient of a pack is the mean of the gradients of its images alone: nothing is padded, and no
image sees another one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danqing.models.layout import Layout, Segment
from danqing.models.transformer import Transformer
from danqing.sampling import flow
from danqing.sampling.schedule import ScheduleConfig, shift_factor


@dataclass(frozen=True)
class Example:
    """One image of a pack, ready for the loss.

    ``clean`` and ``noise`` are packed patches [P, C] float32 of ``rows`` x ``columns``, ``text``
    its features [L, J]; ``mask`` [P, 1] weighs patches (mean 1), ``weight`` the whole image.
    """

    clean: Tensor
    noise: Tensor
    rows: int
    columns: int
    text: Tensor
    sigma: float
    weight: float = 1.0
    mask: Tensor | None = None

    @property
    def noisy(self) -> Tensor:
        return flow.interpolate(self.clean, self.noise, self.sigma)

    @property
    def velocity(self) -> Tensor:
        return flow.velocity(self.clean, self.noise)


def lay_out(examples: Sequence[Example]) -> Layout:
    return Layout(tuple(Segment(e.rows, e.columns, e.text.shape[0]) for e in examples))


def velocities(network: Transformer, examples: Sequence[Example], layout: Layout) -> list[Tensor]:
    """What the network says of each example, float32 [P, C]; all in one pack."""
    weight = network.img_in.weight
    levels = sorted({example.sigma for example in examples}, reverse=True)
    sigmas = torch.tensor(levels, dtype=torch.float32, device=weight.device)
    rows = [levels.index(example.sigma) for example in examples]
    patches = torch.cat([example.noisy for example in examples]).to(weight.device, weight.dtype)
    text = torch.cat([example.text for example in examples]).to(weight.device, weight.dtype)
    out = network(patches, text, layout, network.modulation(sigmas), rows)
    return list(out.float().split(layout.patch_lengths))


def image_losses(
    found: Sequence[Tensor], wanted: Sequence[Tensor], examples: Sequence[Example]
) -> Tensor:
    """The loss of each image [B], weighted."""
    losses = []
    for ours, theirs, example in zip(found, wanted, examples, strict=True):
        squares = (ours - theirs.to(ours.device)).square()
        if example.mask is not None:
            squares = squares * example.mask.to(ours.device)
        losses.append(example.weight * squares.mean())
    return torch.stack(losses)


# ---- noise levels -----------------------------------------------------------------------------

SIGMAS = ("logit_normal", "uniform", "nodes")
Draw = Callable[[np.random.Generator, int], float]  # of an image with so many patches


def sigma_sampler(name: str, options: Mapping[str, Any], config: ScheduleConfig) -> Draw:
    """How noise levels are drawn.

    ``logit_normal`` (mean, std): Esser et al. 2024 (arXiv 2403.03206, eq. 19); ``uniform``;
    ``nodes``: one of the levels of a few-step schedule. All but the nodes are shifted towards the
    noise by ``shift``: a number, or "auto", as the model's schedule shifts for the image's size.
    """
    if name == "nodes":
        nodes = tuple(float(sigma) for sigma in options["nodes"])
        return lambda rng, patches: nodes[int(rng.integers(len(nodes)))]
    mean, std, shift = options["mean"], options["std"], options["shift"]

    def draw(rng: np.random.Generator, patches: int) -> float:
        if name == "uniform":
            level = 1 - float(rng.random())  # in (0, 1]
            odds = level / (1 - level) if level < 1 else math.inf
        else:
            odds = math.exp(mean + std * float(rng.standard_normal()))
        factor = shift_factor(patches, config) if shift == "auto" else float(shift)
        return shifted(odds, factor)

    return draw


def shifted(odds: float, factor: float) -> float:
    """sigma / (1 - sigma) times the factor, as sigma; kept off 0, where nothing is to be learnt."""
    moved = odds * factor
    return 1.0 if math.isinf(moved) else max(moved / (1 + moved), 1e-3)


WEIGHTINGS: dict[str, Callable[[float], float]] = {
    "none": lambda sigma: 1.0,
    # As in diffusers' training examples, from the same paper (sections 3.1 and B.2).
    "sigma_sqrt": lambda sigma: sigma**-2,
    "cosmap": lambda sigma: 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2)),
    # A bell over the levels, as DiffSynth weighs them: least at both ends.
    "bell": lambda sigma: math.exp(-2 * (2 * sigma - 1) ** 2),
}
