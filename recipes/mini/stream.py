"""Pictures without end, composed as they are needed: the n-th of a split is always the same one."""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from recipes.mini.art import Bank
from recipes.mini.compose import Size, compose
from recipes.mini.config import DataConfig
from recipes.mini.facts import Facts
from recipes.mini.plan import KINDS, Kinds, Plan

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """image: uint8 [H, W, 3]"""

    facts: Facts
    image: np.ndarray


class Stream:
    """The pictures of one split: ``train``, or ``held`` for what training never sees."""

    def __init__(self, data: DataConfig, runs: Path, split: str) -> None:
        self.styles = data.styles
        self.bank = Bank(runs / "art", data.styles)
        self.plan = Plan(self.bank, data.holdout_percent, held=split == "held", things=data.things)
        self.key = f"{data.seed}|{split}"

    def picture(self, number: int, size: Size, kinds: Kinds = KINDS) -> Picture:
        """``size``: width, height; the same facts at every size."""
        rng = random.Random(f"{self.key}|{number}")
        facts = self.plan.draw(rng, kinds)
        return Picture(facts, compose(facts, self.bank, rng, size))

    def facts(self, number: int) -> Facts:
        """Those of ``picture(number, ...)``, undrawn."""
        return self.plan.draw(random.Random(f"{self.key}|{number}"))


def batches(steps: Dataset[T], first: int, last: int, device: torch.device) -> Iterator[T]:
    """``steps[first]`` to ``steps[last - 1]``, made ahead by other processes where a GPU waits."""
    workers = max(1, (os.cpu_count() or 2) - 2) if device.type == "cuda" else 0
    return iter(
        DataLoader(
            steps,
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            pin_memory=workers > 0,
            prefetch_factor=4 if workers else None,
        )
    )
