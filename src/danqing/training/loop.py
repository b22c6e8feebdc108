"""The loop: draw, predict, learn, and now and then save, measure and paint.

A generator of events, so that whoever runs it watches and stops it in one way. Nothing it does
depends on how often it was stopped before.
"""

import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danqing.adapters.refusal import printable
from danqing.errors import TrainingError
from danqing.training import checkpoint
from danqing.training.data.pictures import Picture
from danqing.training.loss import WEIGHTINGS, Example, image_losses, lay_out, velocities
from danqing.training.measure import Measured, held_out_losses, measured
from danqing.training.optimise import Average, make_optimiser, rate_factor
from danqing.training.settings import FREE, NAMED, Settings
from danqing.training.stock import Stock
from danqing.training.subject import Subject


@dataclass(frozen=True)
class Stepped:
    """A step was made; ``loss`` is its mean, ``norm`` the gradient's before clipping."""

    step: int
    loss: float
    prior: float
    rate: float
    norm: float
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    step: int
    measured: Measured
    best: bool


@dataclass(frozen=True)
class Due:
    """Samples are due: the network holds the averaged weights until the next event is asked for."""

    step: int


@dataclass(frozen=True)
class Saved:
    step: int


Event = Stepped | Evaluated | Due | Saved
LONGEST = 2000  # characters of pictures that are named
DONE, ASKED, TIME = "all steps are made", "asked to stop", "the minutes are over"


@dataclass
class Best:
    """The evaluation that was best so far, and its weights."""

    step: int = -1
    loss: float = math.inf
    weights: dict[str, Tensor] = field(default_factory=dict)
    base: Tensor | None = None  # the base's own losses [pictures, levels], measured at the start

    def state_dict(self) -> dict[str, Any]:
        return vars(self).copy()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


class Training:
    """One training: what is trained, what it learns from, and how far it is.

    Args:
        subject: what is trained.
        stock: what it learns from.
        held_out: pictures to measure on, at fixed levels; may be empty.
        prior_text: features of prompts for which the base's answers are to stay.
        settings: of the run.
        folder: for its state.
        identity: what else must be the same when it is resumed, by name.
    """

    def __init__(
        self,
        subject: Subject,
        stock: Stock,
        held_out: Sequence[Sequence[Example]],
        prior_text: Sequence[Tensor],
        settings: Settings,
        folder: Path,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        self.subject, self.stock, self.settings, self.folder = subject, stock, settings, folder
        self.held_out, self.prior_text = held_out, prior_text
        self.parameters = subject.parameters()
        self.optimiser = make_optimiser(
            settings.optimiser, self.parameters.values(), settings.rate, settings.weight_decay
        )
        self.average = Average(self.parameters, settings.ema)
        self.best = Best()
        self.ended = ""  # why it ended: DONE, ASKED or TIME
        self.told = {**settings.plain(), **(identity or {})}
        self.step = checkpoint.resume(folder, self.told, self._parts(), FREE | NAMED)

    # ---- the whole ------------------------------------------------------------------------

    def run(self) -> Iterator[Event]:
        """Steps until the settings' number, or until asked to stop; saved at the end."""
        settings, started = self.settings, time.monotonic()
        saved = self.step or -1  # nothing is saved of step 0
        with asked_to_stop() as stop:
            if self.step == 0:
                yield from self._watch()
            while self.step < settings.steps and not stop:
                yield self._one_step()
                yield from self._watch()
                if due(self.step, settings.save_every):
                    saved = self.save()
                    yield Saved(saved)
                if settings.minutes and time.monotonic() - started > 60 * settings.minutes:
                    break
            if saved < self.step:
                yield Saved(self.save())
        self.ended = DONE if self.done else ASKED if stop else TIME

    @property
    def done(self) -> bool:
        return self.step >= self.settings.steps

    def save(self) -> int:
        checkpoint.save(self.folder, self.step, self.told, self._parts())
        return self.step

    def averaged(self) -> AbstractContextManager[None]:
        """While it lasts, the network has the averaged weights."""
        return self.average.shown()

    @contextmanager
    def holding(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """While it lasts, the network has these weights."""
        live = Weights(self.parameters)
        kept = {name: tensor.clone() for name, tensor in live.state_dict().items()}
        live.load_state_dict(weights)
        try:
            yield
        finally:
            live.load_state_dict(kept)

    # ---- the parts ------------------------------------------------------------------------

    def _one_step(self) -> Stepped:
        started, settings = time.monotonic(), self.settings
        self.optimiser.zero_grad(set_to_none=True)
        loss = prior = 0.0
        for part in range(settings.accumulate):
            place = self.step * settings.accumulate + part
            own, kept = self._backward(place)
            loss, prior = loss + own / settings.accumulate, prior + kept / settings.accumulate
        norm = clip(self.parameters.values(), settings.clip)
        self._refuse_nan(loss + prior, norm)
        factor = rate_factor(self.step, settings.steps, settings.warm_up, settings.schedule)
        for group in self.optimiser.param_groups:
            group["lr"] = settings.rate * factor
        self.optimiser.step()
        if settings.ema:
            self.average.update(self.step)
        self.step += 1
        seconds = time.monotonic() - started
        return Stepped(self.step, loss, prior, settings.rate * factor, norm, seconds)

    def _backward(self, place: int) -> tuple[float, float]:
        """Gradients of one pack; its loss, and that of staying as the base is."""
        settings, network = self.settings, self.subject.network
        examples = self.stock.examples(place, settings.batch)
        weights = torch.tensor([WEIGHTINGS[settings.weighting](e.sigma) for e in examples])
        layout = lay_out(examples)
        with self.subject.ride(layout, [True] * len(examples)):
            found = velocities(network, examples, layout)
        losses = image_losses(found, [e.velocity for e in examples], examples)
        loss = (losses * weights.to(losses.device)).mean()
        (loss / settings.accumulate).backward()
        return float(loss.detach()), self._backward_prior(examples, place)

    def _backward_prior(self, examples: Sequence[Example], place: int) -> float:
        """The base's own answer to other prompts is the target: no pictures are needed for it."""
        settings, network = self.settings, self.subject.network
        if not settings.prior:
            return 0.0
        text = self.prior_text[place % len(self.prior_text)]
        others = [with_text(example, text) for example in examples]
        layout = lay_out(others)
        with torch.no_grad(), self.subject.ride(layout, [False] * len(others)):
            base = velocities(network, others, layout)
        with self.subject.ride(layout, [True] * len(others)):
            found = velocities(network, others, layout)
        loss = settings.prior * image_losses(found, base, others).mean()
        (loss / settings.accumulate).backward()
        return float(loss.detach())

    def _watch(self) -> Iterator[Event]:
        """Measure and paint where it is time to."""
        settings = self.settings
        last = self.step == settings.steps
        ends = last or self.step == 0  # also what the base does
        if self.held_out and (due(self.step, settings.evaluate_every) or ends):
            yield self._evaluate()
        if settings.sample_every and (due(self.step, settings.sample_every) or ends):
            with self.averaged():
                yield Due(self.step)

    def _evaluate(self) -> Evaluated:
        if self.best.base is None:
            self.best.base = held_out_losses(self.subject, self.held_out, on=False)
        with self.averaged():
            losses = held_out_losses(self.subject, self.held_out, on=True)
            found = measured(losses, self.best.base)
            if not math.isfinite(found.loss):
                raise TrainingError(
                    f"the held-out loss is {found.loss} at step {self.step}; lower the rate, with "
                    "another --out"
                )
            best = found.loss < self.best.loss
            if best:
                self.best.step, self.best.loss = self.step, found.loss
                self.best.weights = {n: p.detach().clone() for n, p in self.parameters.items()}
        return Evaluated(self.step, found, best)

    def _refuse_nan(self, loss: float, norm: float) -> None:
        """Stop before the step that would spoil the weights; as they are, they are saved."""
        if math.isfinite(loss) and math.isfinite(norm):
            return
        places = range(
            self.step * self.settings.accumulate, (self.step + 1) * self.settings.accumulate
        )
        pictures: list[Picture] = [
            p for place in places for p in self.stock.chosen(place, self.settings.batch)
        ]
        named = ", ".join(dict.fromkeys(picture.record.origin for picture in pictures))
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is {norm}"
        kept = ""
        if self.step:
            self.save()
            kept = f"; the last good state is in {self.folder}"
        raise TrainingError(
            f"{what} at step {self.step + 1} (pictures: {printable(named, LONGEST)}){kept}. Lower "
            "the rate, or leave these pictures out, with another --out"
        )

    def _parts(self) -> dict[str, checkpoint.Stateful]:
        weights = Weights(self.parameters)
        found: dict[str, checkpoint.Stateful] = {
            "weights": weights,
            "optimiser": self.optimiser,
            "best": self.best,
        }
        return {**found, "average": self.average}


class Weights:
    """The trained parameters as a part of the state."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters

    def state_dict(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(state[name])


def with_text(example: Example, text: Tensor) -> Example:
    return replace(example, text=text)


def due(step: int, every: int) -> bool:
    return bool(every) and step > 0 and step % every == 0


def clip(parameters: Iterable[nn.Parameter], most: float) -> float:
    """The gradient's norm; it is scaled down to ``most``, unless that is 0."""
    return float(nn.utils.clip_grad_norm_(list(parameters), most or math.inf))


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that fills when the process is asked to end (SIGTERM, Ctrl-C): save first.

    Who asks a second time means at once.
    """
    received: list[int] = []
    main = threading.current_thread() is threading.main_thread()  # others may not listen
    numbers = (signal.SIGTERM, signal.SIGINT) if main else ()

    def listen(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = [signal.signal(number, listen) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
