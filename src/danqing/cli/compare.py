"""How far apart two pictures are, and two numerics profiles."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Distance:
    """``max_difference`` in steps of 0-255; ``psnr`` in dB, infinite for equal pictures."""

    max_difference: int
    psnr: float


def distance(one: "Image", other: "Image") -> Distance:
    """Between two pictures of the same size."""
    import numpy as np

    pixels = [np.asarray(image.convert("RGB"), dtype=np.int16) for image in (one, other)]
    difference = np.abs(pixels[0] - pixels[1])
    mean_square = float((difference.astype(np.float64) ** 2).mean())
    psnr = 10 * math.log10(255**2 / mean_square) if mean_square else math.inf
    return Distance(int(difference.max()), psnr)


def profile_differences(
    recorded: Mapping[str, str], here: Mapping[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    """The keys on which two profiles differ, with both values; the id only repeats the others."""
    keys = [*recorded, *(key for key in here if key not in recorded)]
    return {
        key: (recorded.get(key), here.get(key))
        for key in keys
        if key != "id" and recorded.get(key) != here.get(key)
    }
