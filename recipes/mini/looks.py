"""What judge and reader see of a picture: all of it at half its size, or a piece as it is."""

import numpy as np

from recipes.mini.compose import Size, Spot
from recipes.mini.crops import SIDE

SIZE: Size = (2 * SIDE, 2 * SIDE)  # of the pictures that they look at


def small(images: np.ndarray) -> np.ndarray:
    """At half the size: uint8 [n, H, W, 3] -> [n, H / 2, W / 2, 3]"""
    n, height, width, channels = images.shape
    halves = images.reshape(n, height // 2, 2, width // 2, 2, channels).astype(np.float32)
    return halves.mean(axis=(2, 4)).round().astype(np.uint8)


def around(image: np.ndarray, spot: Spot) -> np.ndarray:
    """The SIDE x SIDE pixels about a place of a picture, as far as it goes."""
    height, width = image.shape[:2]
    x, y = (round(middle - SIDE / 2) for middle in spot)
    x, y = min(max(x, 0), width - SIDE), min(max(y, 0), height - SIDE)
    return image[y : y + SIDE, x : x + SIDE]


def spots(images: np.ndarray, places: list[Spot]) -> np.ndarray:
    """``around`` in a picture each: uint8 [n, SIDE, SIDE, 3]"""
    return np.stack([around(image, spot) for image, spot in zip(images, places, strict=True)])
