"""Where the segments of a pack lie.

A pack is the tokens of several images (or prompts) laid end to end in one matrix, with no batch
dimension and no padding. A ``Layout`` holds the lengths, and nothing else about the images.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """One image of a pack: its patch grid (rows, columns), and how many text tokens it reads."""

    rows: int
    columns: int
    text: int

    @property
    def patches(self) -> int:
        return self.rows * self.columns

    @property
    def text_start(self) -> int:
        """Rotary position of the first text token: just beyond the centred image's half extent."""
        return max(self.rows // 2, self.columns // 2)


@dataclass(frozen=True)
class Layout:
    """The segments of a pack, in the order in which their tokens lie."""

    segments: tuple[Segment, ...]

    @cached_property
    def patch_lengths(self) -> list[int]:
        return [s.patches for s in self.segments]

    @cached_property
    def text_lengths(self) -> list[int]:
        return [s.text for s in self.segments]

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Neighbours of equal shape, (count, patches, text) each: attention takes a run at once."""
        shapes = zip(self.patch_lengths, self.text_lengths, strict=True)
        return [(len(list(group)), *shape) for shape, group in groupby(shapes)]

    @cached_property
    def image_positions(self) -> Tensor:
        """[T, 2] rows and columns, centred: 5 rows lie at -3..1, 4 columns at -2..1."""
        return torch.cat([centred_grid(s.rows, s.columns) for s in self.segments])

    @cached_property
    def text_positions(self) -> Tensor:
        """[L] one number a token; text lies on the diagonal of all axes."""
        return torch.cat([torch.arange(s.text) + s.text_start for s in self.segments])


def centred_grid(rows: int, columns: int) -> Tensor:
    y = torch.arange(rows) - (rows - rows // 2)
    x = torch.arange(columns) - (columns - columns // 2)
    return torch.cartesian_prod(y, x).view(-1, 2)


def spread(rows: Iterable[int], lengths: list[int]) -> Tensor:
    """Rows of segments to rows of tokens [T]; a single one stands for all where all are equal."""
    each = [int(row) for row in rows]
    if len(set(each)) == 1:
        return torch.tensor(each[:1])
    pairs = zip(each, lengths, strict=True)
    return torch.tensor([row for row, length in pairs for _ in range(length)])
