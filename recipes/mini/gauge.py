"""How much of a picture its caption tells the network.

Held-out pictures of one thing each, at fixed noise: the loss under their own captions, under the
same captions with another thing's name, and under those of other pictures. The differences are what
is learnt of names, and of words at all; a sheet shows neither for a long time.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from danqing.models.tokenizer import PromptTokenizer
from danqing.models.vae import VAE
from recipes.mini.captions import draw_captions
from recipes.mini.compose import Size
from recipes.mini.facts import Facts
from recipes.mini.stream import Stream
from recipes.mini.vae import to_float

LEVELS = (0.5, 0.7, 0.85)
# Losses of latents [B, C, Y, X] under captions at a noise level; the noise is always the same.
Losses = Callable[[Tensor, list[list[int]], float], float]


@dataclass(frozen=True)
class Gauged:
    own: float
    name: float  # with another thing's name
    caption: float  # with another picture's caption

    def __str__(self) -> str:
        names, words = self.name - self.own, self.caption - self.own
        return f"held loss {self.own:.4f}, another name +{names:.4f}, another caption +{words:.4f}"


class Gauge:
    """The pictures and the captions in three versions, of the same number of tokens or not."""

    def __init__(self, stream: Stream, tokenizer: PromptTokenizer, count: int, size: Size) -> None:
        facts: list[Facts] = []
        images, number = [], 0
        while len(facts) < count:
            own = stream.facts(number)
            if own.alone and own.tint is None:
                facts.append(own)
                images.append(stream.picture(number, size).image)
            number += 1
        turned = facts[1:] + facts[:1]
        renamed = [replace(f, concept=o.concept) for f, o in zip(facts, turned, strict=True)]
        self.images = torch.from_numpy(np.stack(images))
        self.versions = [
            [tokenizer.encode(caption(f, i)) for i, f in enumerate(own)]
            for own in (facts, renamed, turned)
        ]

    @torch.no_grad()
    def measure(self, vae: VAE, device: torch.device, losses: Losses) -> Gauged:
        mean = vae.normalise(vae.encode(to_float(self.images).to(device))[0])
        found = [
            float(np.mean([losses(mean, version, level) for level in LEVELS]))
            for version in self.versions
        ]
        return Gauged(*found)


def caption(facts: Facts, number: int) -> str:
    """In each language in turn."""
    return draw_captions(random.Random(f"gauge|{number}"), facts)[number % 2]
