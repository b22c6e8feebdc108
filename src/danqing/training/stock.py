"""What a step learns from: which pictures come when, and every number drawn for them.

The pictures of a step follow from (seed, step), the noise of a picture from (seed, step, its place
in the step): nothing depends on what was drawn before, so a run that was killed goes on as if it
had not been.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from danqing.sampling import latents
from danqing.training.cache import sample
from danqing.training.data.captions import choose
from danqing.training.data.pictures import Picture
from danqing.training.loss import Draw, Example

# Streams of random numbers, so that none is drawn twice for two purposes.
ORDER, STEP, MEASURE = 0, 1, 2


class Shelf(Protocol):
    """Where latents and text features lie; ``cache.Cache`` is one."""

    def latents(self, picture: Picture) -> tuple[Tensor, Tensor]: ...
    def text(self, caption: str) -> Tensor: ...


@dataclass(frozen=True)
class Take:
    """How a picture is drawn: its captions, its noise level, what it counts."""

    draw_sigma: Draw
    dropout: float = 0.0
    trigger: str | None = None
    seed: int = 0
    unit: int = 16  # pixels of a patch's side


class Stock:
    """Pictures to learn from, each as often in an epoch as it is repeated.

    Args:
        pictures: with the sizes at which they are trained.
        shelf: their latents and text features.
        take: how they are drawn.
    """

    def __init__(self, pictures: Sequence[Picture], shelf: Shelf, take: Take) -> None:
        self.pictures = list(pictures)
        self.take = take
        self._shelf = shelf
        self._round = [i for i, p in enumerate(pictures) for _ in range(p.record.repeats)]
        self._mask = lru_cache(None)(lambda picture: picture.weights(take.unit))
        self._epoch: tuple[int, list[int]] = (-1, [])

    @property
    def epoch_length(self) -> int:
        return len(self._round)

    def chosen(self, step: int, batch: int) -> list[Picture]:
        """The pictures of a step: the epochs' orders end to end, cut into batches."""
        return [self.pictures[self._at(step * batch + k)] for k in range(batch)]

    def examples(self, step: int, batch: int) -> list[Example]:
        """The pictures of a step, each with caption, noise and noise level."""
        return [self.example(p, step, k) for k, p in enumerate(self.chosen(step, batch))]

    def example(self, picture: Picture, step: int, place: int) -> Example:
        rng = np.random.default_rng((self.take.seed, STEP, step, place))
        caption = choose(picture.record, rng, self.take.dropout, self.take.trigger)
        mean, logvar = self._shelf.latents(picture)
        rows, columns = (n // latents.PATCH for n in mean.shape[-2:])
        sigma = self.take.draw_sigma(rng, rows * columns)
        clean = sample(mean, logvar, draw(rng, mean))
        return self.laid(picture, clean, draw(rng, mean), caption, sigma)

    def laid(
        self, picture: Picture, clean: Tensor, noise: Tensor, caption: str, sigma: float
    ) -> Example:
        """An example of this clean latent and this noise, both [C, Y, X]."""
        rows, columns = (n // latents.PATCH for n in clean.shape[-2:])
        return Example(
            clean=latents.pack(clean),
            noise=latents.pack(noise),
            rows=rows,
            columns=columns,
            text=self._shelf.text(caption),
            sigma=sigma,
            weight=picture.record.weight,
            mask=self._mask(picture),
        )

    def fixed(self, sigmas: Sequence[float]) -> list[list[Example]]:
        """Every picture at every level, always with the same noise and its first caption."""
        found = []
        for index, picture in enumerate(self.pictures):
            mean, _ = self._shelf.latents(picture)
            caption = choose(picture.record, np.random.default_rng(0), 0.0, self.take.trigger)
            rng = np.random.default_rng((self.take.seed, MEASURE, index))
            noises = [draw(rng, mean) for _ in sigmas]
            pairs = zip(noises, sigmas, strict=True)
            found.append([self.laid(picture, mean, noise, caption, s) for noise, s in pairs])
        return found

    def _at(self, position: int) -> int:
        """The picture at this position of all epochs laid end to end."""
        epoch, place = divmod(position, len(self._round))
        if self._epoch[0] != epoch:
            rng = np.random.default_rng((self.take.seed, ORDER, epoch))
            self._epoch = epoch, [self._round[i] for i in rng.permutation(len(self._round))]
        return self._epoch[1][place]


def draw(rng: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), dtype=np.float32))
