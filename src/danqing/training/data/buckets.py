"""At which size a picture is trained: near its own shape, within a budget of pixels.

Sides are multiples of ``unit``, and no longer than four times the other. A picture is cropped as
little as possible and never enlarged, unless that is asked for.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from danqing.errors import DataError
from danqing.training.data.images import Size

MAX_RATIO = 4


@dataclass(frozen=True)
class Buckets:
    """The sizes for one training.

    Attributes:
        area: the most pixels of a picture.
        unit: pixels of a patch's side.
        upscale: whether small pictures are enlarged to the area.
    """

    area: int = 1024 * 1024
    unit: int = 16
    upscale: bool = False

    def __post_init__(self) -> None:
        if self.area < self.unit**2:
            raise DataError(f"{self.area} pixels are less than {self.unit}x{self.unit}")

    def size(self, picture: Size) -> Size:
        """The (width, height) at which a picture of this size is trained.

        Raises:
            DataError: its shorter side is under ``unit`` and it may not be enlarged.
        """
        if self.upscale:
            return self._nearest(self.sizes, picture)
        if min(picture) < self.unit:
            raise too_small(picture, self.unit)
        within = [size for size in self.sizes if covers(picture, size)]
        return self._nearest(within, picture) if within else self._largest_within(picture)

    @cached_property
    def sizes(self) -> list[Size]:
        """All that make use of the area: one side or both cannot grow by a unit."""
        budget = self.area // self.unit**2
        longest = math.isqrt(MAX_RATIO * budget)
        tall = [(side, budget // side) for side in range(1, longest + 1)]
        both = {*tall, *((height, width) for width, height in tall)}
        fit = [(w, h) for w, h in both if w <= MAX_RATIO * h and h <= MAX_RATIO * w]
        return sorted((w * self.unit, h * self.unit) for w, h in fit)

    def _nearest(self, sizes: list[Size], picture: Size) -> Size:
        """The one that crops the least; of such the largest, then the widest."""
        return min(sizes, key=lambda size: (cropped(picture, size), -size[0] * size[1], -size[0]))

    def _largest_within(self, picture: Size) -> Size:
        width, height = (side // self.unit for side in picture)
        width, height = min(width, MAX_RATIO * height), min(height, MAX_RATIO * width)
        return width * self.unit, height * self.unit


def covers(picture: Size, size: Size) -> bool:
    return picture[0] >= size[0] and picture[1] >= size[1]


def cropped(picture: Size, size: Size) -> float:
    """The share of the picture that is lost when it is scaled to cover the size."""
    one, other = picture[0] * size[1], picture[1] * size[0]
    return 1 - min(one, other) / max(one, other)


def too_small(picture: Size, least: int) -> DataError:
    width, height = picture
    return DataError(f"is {width}x{height}, the shorter side must be at least {least} pixels")


def tally(sizes: Iterable[Size]) -> list[tuple[Size, int]]:
    """How many pictures each size gets, the most frequent first; to be shown."""
    return sorted(Counter(sizes).items(), key=lambda pair: (-pair[1], pair[0]))
