"""The training loop that the stages share: resume, time budget, status line, atomic checkpoints.

Every random draw of a step comes from (seed, step), so a killed run that is started again goes on
as if nothing had happened.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from recipes.mini import checkpoint


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Budget:
    """When to stop (pictures, minutes) and how often to save and draw (minutes)."""

    pictures: int
    batch: int
    minutes: float | None = None
    save_every: float = 3.0

    @property
    def steps(self) -> int:
        return math.ceil(self.pictures / self.batch)


def train(
    parts: dict[str, Stateful],
    step_fn: Callable[[int], float],
    budget: Budget,
    folder: Path,
    on_save: Callable[[int], None],
) -> int:
    """Run ``step_fn(step) -> loss`` until the budget ends; returns the number of steps done in all.

    ``parts`` are saved in ``folder/state`` and restored from it; ``on_save(step)`` draws sheets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = step = restore(parts, folder / "state")
    started = saved = shown = time.monotonic()
    mean = None
    with asked_to_stop() as stop:
        while step < budget.steps and not spent(started, budget.minutes) and not stop:
            loss = step_fn(step)
            if not math.isfinite(loss):
                raise RuntimeError(f"loss is {loss} at step {step}; lower the rate in the TOML")
            mean = loss if mean is None else mean + 0.02 * (loss - mean)
            step += 1
            now = time.monotonic()
            if now - shown > 20:
                status(folder, step, step - first, now - started, mean, budget)
                shown = now
            if now - saved > 60 * budget.save_every:
                save(parts, step, folder / "state")
                on_save(step)
                saved = time.monotonic()
        save(parts, step, folder / "state")
        on_save(step)
    return step


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that fills when the run is asked to end (SIGTERM, Ctrl-C): save first, then stop."""
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda n, _: received.append(n)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def spent(started: float, minutes: float | None) -> bool:
    return minutes is not None and time.monotonic() - started > 60 * minutes


def status(folder: Path, step: int, done: int, seconds: float, mean: float, budget: Budget) -> None:
    rate = done * budget.batch / seconds
    left = (budget.steps - step) * budget.batch / rate / 60
    if budget.minutes is not None:
        left = min(left, budget.minutes - seconds / 60)
    print(
        f"{folder.name}: step {step}/{budget.steps}  pictures {step * budget.batch}  "
        f"{rate:.1f} pictures/s  loss {mean:.4f}  {left:.1f} min left",
        flush=True,
    )


def save(parts: dict[str, Stateful], step: int, folder: Path) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    checkpoint.save({"step": step, **state}, folder)


def restore(parts: dict[str, Stateful], folder: Path) -> int:
    """Load the parts from a checkpoint if there is one; the step to go on from."""
    state = checkpoint.load(folder)
    if state is None:
        return 0
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster here: on a CPU without bfloat16 units it is ten times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()


def learning_rate(step: int, steps: int, warm_up: int, decay: float) -> float:
    """Factor on the peak rate: linear warm-up, constant, linear to zero over the last share."""
    up = (step + 1) / warm_up
    down = (steps - step) / max(1.0, decay * steps)
    return max(0.0, min(1.0, up, down))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """The settings' rate counts, not the one that a checkpoint brings along."""
    for group in optimiser.param_groups:
        group["lr"] = rate


class Average:
    """Exponential moving average of a module's parameters, with warm-up of the decay."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = module
        self.shadow = {n: p.detach().clone() for n, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        names = list(self.shadow)
        live = dict(self.module.named_parameters())
        torch._foreach_lerp_(
            [self.shadow[n] for n in names], [live[n].detach() for n in names], 1 - decay
        )

    def state_dict(self) -> dict[str, Any]:
        return self.shadow

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            self.shadow[name].copy_(value)
