"""Records at the sizes at which they are trained."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from danqing.training.data.buckets import Buckets
from danqing.training.data.faults import named
from danqing.training.data.framing import frame
from danqing.training.data.images import WHITE, Colour, Size, measure, open_rgb
from danqing.training.data.masks import patch_weights
from danqing.training.data.parallel import at_once
from danqing.training.data.records import Record


@dataclass(frozen=True)
class Picture:
    """A record and the (width, height) at which it is trained."""

    record: Record
    size: Size

    def image(self, background: Colour = WHITE) -> Image.Image:
        """The picture itself, of this size; DataError as ``open_rgb``, with its place."""
        with named(self.record.origin):
            return frame(open_rgb(self.record.image, background), self.size)

    def weights(self, unit: int = 16) -> Tensor | None:
        """What its patches count, as ``patch_weights``; None without a mask."""
        if self.record.mask is None:
            return None
        with named(self.record.origin):
            return patch_weights(self.record.mask, self.size, unit)


def plan(records: Sequence[Record], buckets: Buckets) -> list[Picture]:
    """Each record with its size. DataError for pictures that ``check`` would not let pass."""

    def fit(record: Record) -> Picture:
        with named(record.origin):
            return Picture(record, buckets.size(measure(record.image)))

    return list(at_once(fit, records))
