"""What the VAE is trained on: mostly pieces of 64 x 64 pixels, now and then whole pictures.

Pieces are quick, and convolutions learn the same from them; the attention in the middle looks at
all of a picture, so it has to meet whole ones of every size, too.
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recipes.mini.compose import Size
from recipes.mini.config import VAEStage
from recipes.mini.stream import Stream

SIDE = 64
WHOLE = 0.2  # share of the steps with whole pictures of one size
SMALL = 0.1  # share of small pictures among the pieces
TRIES = 4
FLAT = 8.0  # deviation of the pixels below which a piece shows next to nothing


class Crops(Dataset[Tensor]):
    """steps[n]: uint8 [B, H, W, 3]; all steps hold about as many pixels."""

    def __init__(self, stream: Stream, sizes: tuple[Size, ...], stage: VAEStage) -> None:
        self.stream, self.sizes, self.stage = stream, sizes, stage

    def __getitem__(self, step: int) -> Tensor:
        rng = np.random.default_rng((self.stage.seed, step))
        count, first = self.stage.batch, step * self.stage.batch
        if rng.random() < WHOLE:
            size = self.sizes[int(rng.integers(len(self.sizes)))]
            count = max(1, count * SIDE * SIDE // (size[0] * size[1]))
            images = [self.stream.picture(first + i, size).image for i in range(count)]
        else:
            images = [self.piece(first + i, rng) for i in range(count)]
        return torch.from_numpy(np.stack(images))

    def piece(self, number: int, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < SMALL:
            return self.stream.picture(number, (SIDE, SIDE)).image
        image = self.stream.picture(number, self.sizes[int(rng.integers(len(self.sizes)))]).image
        height, width = image.shape[:2]
        for _ in range(TRIES):
            y, x = rng.integers(height - SIDE + 1), rng.integers(width - SIDE + 1)
            piece = image[y : y + SIDE, x : x + SIDE]
            if piece.std() > FLAT:
                break
        return piece
