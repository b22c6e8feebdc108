"""Loss masks: what a part of a picture counts, one weight per patch.

A mask is a grey picture of the same framing; white counts fully, black does not.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from danqing.errors import DataError
from danqing.training.data.framing import centre
from danqing.training.data.images import Size, open_rgb
from danqing.training.data.records import Place

BLACK = (0, 0, 0)


def patch_weights(place: Place, size: Size, unit: int = 16) -> Tensor:
    """Weights [P, 1] float32 with mean 1, in the order of ``sampling.latents.pack``.

    Args:
        place: the mask; transparent parts count as black.
        size: the (width, height) at which its picture is trained.
        unit: pixels of a patch's side.

    Raises:
        DataError: it cannot be read, or nothing within the crop counts.
    """
    mask = open_mask(place)
    shares = mask.resize(
        (size[0] // unit, size[1] // unit), Image.Resampling.BOX, box=centre(mask.size, size)
    )
    weights = np.asarray(shares).astype(np.float64).reshape(-1, 1)
    if not weights.any():
        raise DataError("the mask is all black; nothing of the picture would count")
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))


def open_mask(place: Place) -> Image.Image:
    """The mask in floating point, so that means over patches are not rounded."""
    return open_rgb(place, BLACK).convert("L").convert("F")


def check_shape(mask: Size, picture: Size) -> None:
    """DataError for another aspect ratio; a pixel each way is a scaled mask's rounding."""
    (width, height), (across, down) = mask, picture
    if abs(width * down - across * height) > across + down:
        raise DataError(
            f"the mask is {width}x{height}, its picture {across}x{down}; give both one shape"
        )
