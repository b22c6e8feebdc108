"""Which pictures a step of the stage `base` shows: blocks that come again a few times.

Composing and encoding a picture costs a third of learning from it. So every block of pictures is
shown `views` times, with other captions and other noise, and `LAG` steps apart: in one batch, twice
the same picture would take the place of another one. What a step shows follows from its number
alone, whether the blocks are remembered or made anew after a restart.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from danqing.models.tokenizer import PromptTokenizer
from danqing.models.vae import VAE
from danqing.types import BLANK
from recipes.mini.captions import NAME_STYLE, draw_caption, draw_nameless
from recipes.mini.compose import Size
from recipes.mini.config import BaseStage
from recipes.mini.facts import Facts
from recipes.mini.plan import ALONE, PAINTED
from recipes.mini.stream import Stream
from recipes.mini.vae import to_float

LAG = 64  # steps
Key = tuple[int, Size, bool]  # the block's number, its pictures' size, whether things are alone
Moments = tuple[Tensor, Tensor]  # mean and log-variance, [B, C, Y, X]


@dataclass(frozen=True)
class Block:
    """``images`` is None where the block is remembered."""

    key: Key
    facts: list[Facts]
    images: Tensor | None  # uint8 [B, H, W, 3]
    tokens: list[list[int]]  # a caption of each picture


class Batches(Dataset[list[Block]]):
    """steps[n]: ``views`` blocks of one size, the first of them new.

    ``remembered`` holds facts of blocks that need not be composed again, in this process only.
    """

    def __init__(
        self, stream: Stream, sizes: tuple[Size, ...], stage: BaseStage, tokenizer: PromptTokenizer
    ) -> None:
        self.stream, self.sizes, self.stage, self.tokenizer = stream, sizes, stage, tokenizer
        self.remembered: dict[Key, list[Facts]] = {}

    def __getitem__(self, step: int) -> list[Block]:
        rng = random.Random(f"{self.stage.seed}|{step}")
        size, alone = self.size(step), self.stage.share(step) < self.stage.alone
        numbers = [step - view * LAG for view in range(self.stage.views)]
        return [self.block((number, size, alone), rng) for number in numbers]

    def block(self, key: Key, rng: random.Random) -> Block:
        images, facts = None, self.remembered.get(key)
        if facts is None:
            images, facts = self.compose(*key)
        return Block(key, facts, images, [self.caption(rng, own) for own in facts])

    def compose(self, number: int, size: Size, alone: bool) -> tuple[Tensor, list[Facts]]:
        """About as many pixels at every size."""
        most, (width, height) = self.stage.batch // self.stage.views, self.sizes[0]
        count = max(1, most * width * height // (size[0] * size[1]))
        kinds = ALONE if alone else PAINTED
        pictures = [self.stream.picture(number * most + i, size, kinds) for i in range(count)]
        return torch.from_numpy(np.stack([p.image for p in pictures])), [p.facts for p in pictures]

    def size(self, step: int) -> Size:
        """The first one, later each in turn; a block that comes again finds its own."""
        early = self.stage.share(step) < self.stage.square
        return self.sizes[0] if early else self.sizes[step % LAG % len(self.sizes)]

    def caption(self, rng: random.Random, facts: Facts) -> list[int]:
        """A thing that is seen in one style alone has it named, and the others now and then are not
        named themselves: so the look is the style's and not the thing's, and what is held out
        can be painted in the other style."""
        chance, once = rng.random(), self.stream.plan.in_one_style(facts)
        if chance < self.stage.dropout:
            return self.tokenizer.encode(BLANK)
        if not once and chance < self.stage.dropout + self.stage.nameless:
            return self.tokenizer.encode(draw_nameless(rng, facts))
        return self.tokenizer.encode(draw_caption(rng, facts, 1.0 if once else NAME_STYLE))


class Seen:
    """What the VAE makes of the blocks, as long as they come again."""

    def __init__(self, vae: VAE, steps: Batches) -> None:
        self.vae, self.steps = vae, steps
        self.kept: dict[Key, Moments] = {}

    def gather(self, blocks: list[Block], step: int) -> tuple[Moments, list[list[int]], Tensor]:
        """Of all pictures of a step, and which of them hold a thing that comes in one style alone
        [B]; captions of equal length lie together."""
        self.forget(step)
        means, logvars = zip(*(self.moments(block) for block in blocks), strict=True)
        tokens = [own for block in blocks for own in block.tokens]
        plan = self.steps.stream.plan
        once = torch.tensor([plan.in_one_style(f) for block in blocks for f in block.facts])
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        moments = torch.cat(means)[order], torch.cat(logvars)[order]
        return moments, [tokens[i] for i in order], once[order]

    @torch.no_grad()
    def moments(self, block: Block) -> Moments:
        if block.images is not None and block.key not in self.kept:
            device = self.vae.quant_conv.weight.device
            images = block.images.to(device, non_blocking=True)
            self.kept[block.key] = self.vae.encode(to_float(images))
            self.steps.remembered[block.key] = block.facts
        return self.kept[block.key]

    def forget(self, step: int) -> None:
        last = step - (self.steps.stage.views - 1) * LAG
        for key in [key for key in self.kept if key[0] < last]:
            del self.kept[key], self.steps.remembered[key]


def draw_latents(vae: VAE, moments: Moments, noise: torch.Generator) -> Tensor:
    """Samples of the posterior, normalised: [B, C, Y, X]."""
    mean, logvar = moments
    draw = torch.randn(mean.shape, generator=noise).to(mean)
    return vae.normalise(mean + (0.5 * logvar).exp() * draw)
