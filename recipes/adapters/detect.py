"""Detectors: small networks that say whether a picture is a sunset, or shows Dandan.

They are trained apart from the adapters, on drawings of other things: clean ones that are spoilt in
many ways, others that went through mini's VAE, and pictures by mini itself on the side of "no". So
neither softness nor being generated decides. Drawings of one family stand on both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from recipes.adapters.config import DetectorConfig
from recipes.mini.crops import SIDE
from recipes.mini.judge import Judge, square
from recipes.mini.looks import small
from recipes.mini.loop import learning_rate, set_learning_rate
from recipes.mini.views import NOISE, draw_views, soften, uniform

NO, YES = 0, 1
MOVED = 3  # pixels


@dataclass(frozen=True)
class Group:
    """Pictures of one class that fill a share of each batch.

    ``pictures`` are glyphs [n, 4, GLYPH, GLYPH], colour times alpha, or whole ones of SIDE pixels,
    [n, 3, SIDE, SIDE] in -1..1.
    """

    label: int
    share: float
    pictures: Tensor


def train(groups: Sequence[Group], config: DetectorConfig) -> Judge:
    torch.manual_seed(config.seed)
    detector = Judge(config.width, 2)
    optimiser = torch.optim.AdamW(
        detector.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    for step in range(config.steps):
        rng = torch.Generator().manual_seed(config.seed * 2**20 + step)
        images, labels = batch(groups, config.batch, rng)
        factor = learning_rate(step, config.steps, config.warm_up, config.decay)
        set_learning_rate(optimiser, config.learning_rate * factor)
        loss = F.cross_entropy(detector(images), labels, label_smoothing=0.02)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return detector.eval()


def batch(groups: Sequence[Group], count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """[count, 3, SIDE, SIDE] in -1..1, and the classes."""
    shares = torch.tensor([group.share for group in groups])
    of = torch.multinomial(shares, count, replacement=True, generator=rng)
    images, labels = [], []
    for number, group in enumerate(groups):
        own = int((of == number).sum())
        if own:
            chosen = group.pictures[torch.randint(len(group.pictures), (own,), generator=rng)]
            images.append(views(chosen, rng))
            labels += [group.label] * own
    return torch.cat(images), torch.tensor(labels)


def views(chosen: Tensor, rng: torch.Generator) -> Tensor:
    """Glyphs spoilt in all ways, or whole pictures moved, softened and made noisy."""
    if chosen.shape[1] == 4:
        return draw_views(chosen, SIDE, rng)
    image = soften(shift(chosen, rng) / 2 + 0.5, rng)
    noise = torch.randn(image.shape, generator=rng)
    return (image + noise * uniform(len(image), 0, NOISE, rng)).clamp(0, 1) * 2 - 1


def shift(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each a few pixels aside, its rim continued."""
    padded = F.pad(images, [MOVED] * 4, mode="replicate")
    at = torch.randint(2 * MOVED + 1, (len(images), 2), generator=rng).tolist()
    height, width = images.shape[-2:]
    return torch.stack(
        [p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, at, strict=True)]
    )


# ---- material ---------------------------------------------------------------------------------


def as_glyphs(images: Sequence[Image.Image]) -> Tensor:
    squares = np.stack([square(glyph) for glyph in images])
    glyphs = torch.from_numpy(squares).permute(0, 3, 1, 2) / 255
    glyphs[:, :3] *= glyphs[:, 3:]
    return glyphs


def halved(images: np.ndarray) -> Tensor:
    """uint8 [n, 2 SIDE, 2 SIDE, 3] -> [n, 3, SIDE, SIDE] in -1..1"""
    return as_images(small(images))


def as_images(images: np.ndarray) -> Tensor:
    """uint8 [n, H, W, 3] -> [n, 3, H, W] in -1..1"""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2) / 127.5 - 1


def blurred(images: np.ndarray) -> np.ndarray:
    """At half the resolution and back."""
    half = F.avg_pool2d(as_images(images), 2)
    soft = F.interpolate(half, images.shape[1:3], mode="bilinear", align_corners=False)
    return as_bytes(soft)


def as_bytes(images: Tensor) -> np.ndarray:
    scaled = ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
    return scaled.permute(0, 2, 3, 1).contiguous().numpy()


def share(detector: Judge, images: np.ndarray) -> float:
    """Of the pictures, uint8 [n, 2 SIDE, 2 SIDE, 3], that the detector says yes to."""
    return (detector.classify(small(images)).argmax(dim=1) == YES).float().mean().item()
