"""Modulation tables, with the rows of pictures whose adapters change them beside the plain ones.

Few adapters do: then all pictures share one table, whatever else their adapters change.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from danqing.adapters.inject import Mix, bake
from danqing.models.transformer import Modulation, Transformer

KEPT = 4
Trace = tuple[tuple[str, float], ...]  # of a mix: the digests and strengths that reach the table


def trace(mix: Mix) -> Trace:
    return tuple((bound.digest, strength) for bound, strength in mix if bound.table)


@dataclass(frozen=True)
class Table:
    """One modulation table for a pack, and where each picture finds its row."""

    modulation: Modulation
    rows: dict[tuple[Trace, float], int]

    def row(self, sigma: float, mix: Mix) -> int:
        return self.rows[trace(mix), sigma]


class Tables:
    """The tables of a transformer; the last few are kept."""

    def __init__(self, network: Transformer) -> None:
        self._network = network
        self._kept: dict[tuple[tuple[float, ...], tuple[Trace, ...]], Table] = {}

    def get(self, sigmas: Iterable[float], mixes: Iterable[Mix]) -> Table:
        """The table of these noise levels, for each of the mixes."""
        # The table works in float32, and so do the levels by which its rows are found.
        levels = tuple(sorted(set(sigmas), reverse=True))
        different = {trace(mix): mix for mix in mixes}
        key = (levels, tuple(sorted(different)))
        if key not in self._kept:
            while len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            baked = [bake(self._network, levels, different[t]) for t in key[1]]
            places = [(t, sigma) for t in key[1] for sigma in levels]
            rows = {place: row for row, place in enumerate(places)}
            self._kept[key] = Table(stacked(baked, levels), rows)
        return self._kept[key]


def stacked(tables: list[Modulation], levels: tuple[float, ...]) -> Modulation:
    """One table, the rows of the first before those of the next."""
    if len(tables) == 1:
        return tables[0]
    return Modulation(
        sigmas=levels * len(tables),
        img=[torch.cat(rows) for rows in zip(*(t.img for t in tables), strict=True)],
        txt=[torch.cat(rows) for rows in zip(*(t.txt for t in tables), strict=True)],
        out=torch.cat([t.out for t in tables]),
    )
