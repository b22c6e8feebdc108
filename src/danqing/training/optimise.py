"""Optimisers by name, the learning rate over the steps, and the average of the weights."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from danqing.errors import TrainingError

OPTIMISERS = ("adamw", "adamw8bit", "prodigy")
SCHEDULES = ("constant", "cosine")
# Bytes of state per trained parameter, beside the parameter and its gradient.
STATE_BYTES = {"adamw": 8, "adamw8bit": 2, "prodigy": 16}


def make_optimiser(
    name: str,
    parameters: Iterable[nn.Parameter],
    rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """``rate`` is the peak; Prodigy finds its own and takes it as a factor, usually 1."""
    given = list(parameters)
    if name == "adamw":
        return torch.optim.AdamW(given, lr=rate, betas=betas, weight_decay=weight_decay)
    if name == "adamw8bit":
        return load("bitsandbytes").optim.AdamW8bit(
            given, lr=rate, betas=betas, weight_decay=weight_decay
        )
    if name == "prodigy":
        options = {"decouple": True, "use_bias_correction": True, "safeguard_warmup": True}
        kind = load("prodigyopt").Prodigy
        return kind(given, lr=rate, weight_decay=weight_decay, **options)
    raise TrainingError(f"optimiser {name!r} is not known; choose {', '.join(OPTIMISERS)}")


def load(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TrainingError(
            f"this optimiser is {module}'s, which is not installed: pip install danqing[train]"
        ) from error


def rate_factor(step: int, steps: int, warm_up: int, schedule: str) -> float:
    """Of the peak rate: linear warm-up, then constant, or a half cosine down to zero."""
    if step < warm_up:
        return (step + 1) / warm_up
    if schedule == "constant":
        return 1.0
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Average:
    """Exponential moving average of parameters; early steps weigh more, so that it starts fast."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._live = dict(parameters)
        self.shadow = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, live in self._live.items():
            self.shadow[name].lerp_(live, 1 - decay)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While it lasts, the parameters are the averages."""
        if not self.decay:
            yield
            return
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the live values and the averages; twice is as before."""
        for name, live in self._live.items():
            kept = live.detach().clone()
            live.copy_(self.shadow[name])
            self.shadow[name] = kept

    def state_dict(self) -> dict[str, Tensor]:
        return self.shadow

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in state.items():
            self.shadow[name].copy_(value)
