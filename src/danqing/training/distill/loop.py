"""The loop of a distillation: imitate, let the fake score learn, then match distributions.

A generator of events, like the loop of a training. Nothing it does depends on how often it was
stopped before.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from danqing.errors import TrainingError
from danqing.training import checkpoint
from danqing.training.distill import phases
from danqing.training.distill.draws import FAKE, MATCH
from danqing.training.distill.guards import Figures, Guard, measure
from danqing.training.distill.phases import Lesson
from danqing.training.distill.roles import FAKE as FAKE_ROLE
from danqing.training.distill.roles import STUDENT
from danqing.training.distill.settings import FREE, NAMED
from danqing.training.distill.trajectories import Wish
from danqing.training.loop import ASKED, DONE, TIME, Due, Saved, Weights, asked_to_stop, clip, due
from danqing.training.optimise import Average, make_optimiser, rate_factor

IMITATION, FAKE_START, MATCHING = "imitation", "fake score", "matching"
TIRED = "it went astray too often; the last sound weights are kept"
BETAS = {IMITATION: (0.9, 0.999), MATCHING: (0.0, 0.99)}


@dataclass(frozen=True)
class Stepped:
    """A step was made. ``losses`` by name; ``norm`` is the student's gradient's before clipping."""

    step: int
    phase: str
    losses: dict[str, float]
    norm: float
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    """``back``: the step whose weights were put back, if the guard asked for it."""

    step: int
    figures: Figures
    back: int | None = None


Event = Stepped | Evaluated | Due | Saved


class Clock:
    """The minutes that a run may take, from now on; without end by default."""

    def __init__(self, minutes: float | None = None) -> None:
        self._end = math.inf if not minutes else time.monotonic() + 60 * minutes

    @property
    def over(self) -> bool:
        return time.monotonic() > self._end


class Distillation:
    """One distillation and how far it is.

    Args:
        lesson: what is learnt from.
        held_out: wishes to measure on, with the teacher's final states.
        folder: for the state.
        identity: what else must be the same when it is resumed, by name.
        clock: when it has to stop; it makes one step at least.
    """

    def __init__(
        self,
        lesson: Lesson,
        held_out: Sequence[tuple[Wish, Tensor]],
        folder: Path,
        identity: Mapping[str, str],
        clock: Clock | None = None,
    ) -> None:
        settings, self.clock = lesson.settings, clock or Clock()
        self.lesson, self.settings, self.folder = lesson, settings, folder
        self.wishes = [wish for wish, _ in held_out]
        self.teacher = [state for _, state in held_out]
        self.parameters = lesson.student.roles.parameters(STUDENT)
        self.fake_parameters = lesson.student.roles.parameters(FAKE_ROLE)
        own, fake = list(self.parameters.values()), list(self.fake_parameters.values())
        decay = settings.weight_decay
        self.optimisers = {
            IMITATION: make_optimiser("adamw", own, settings.rate, decay, BETAS[IMITATION]),
            MATCHING: make_optimiser("adamw", own, settings.matching_rate, decay, BETAS[MATCHING]),
            FAKE_START: make_optimiser("adamw", fake, settings.fake_rate, decay, BETAS[MATCHING]),
        }
        self.average = Average(self.parameters, settings.ema)
        self.guard = Guard(settings.limit)
        self.ended = ""
        self.told = {**settings.plain(), **identity}
        self.step = checkpoint.resume(folder, self.told, self._parts(), FREE | NAMED)

    # ---- the whole ----------------------------------------------------------------------------

    def run(self) -> Iterator[Event]:
        settings, saved = self.settings, self.step or -1  # nothing is saved of step 0
        with asked_to_stop() as stop:
            if self.step == 0:
                yield from self._watch()
            while not self.done and not self.guard.tired and not stop:
                yield self._one_step()
                yield from self._watch()
                if due(self.step, settings.save_every):
                    saved = self.save()
                    yield Saved(saved)
                if self.clock.over:
                    break
            if saved < self.step:
                yield Saved(self.save())
        told = {TIRED: self.guard.tired, DONE: self.done, ASKED: bool(stop), TIME: True}
        self.ended = next(reason for reason, so in told.items() if so)

    @property
    def done(self) -> bool:
        return self.step >= self.settings.total

    @property
    def weights_of(self) -> int:
        """The step whose weights there are now."""
        return self.guard.step if self.guard.back else self.step

    @property
    def phase(self) -> str:
        settings = self.settings
        if self.step < settings.imitation:
            return IMITATION
        matching = self.step >= settings.before_matching
        return MATCHING if matching else FAKE_START

    def save(self) -> int:
        checkpoint.save(self.folder, self.step, self.told, self._parts())
        return self.step

    # ---- the parts ----------------------------------------------------------------------------

    def _one_step(self) -> Stepped:
        started, phase, step = time.monotonic(), self.phase, self.step
        learn = {
            IMITATION: self._imitate, FAKE_START: self._begin_fake, MATCHING: self._match
        }[phase]  # fmt: skip
        found, norm = learn(step)
        if phase != FAKE_START:
            self.average.update(step)
        self.step, self.guard.back = self.step + 1, False
        return Stepped(self.step, phase, found, norm, time.monotonic() - started)

    def _imitate(self, step: int) -> tuple[dict[str, float], float]:
        settings, optimiser = self.settings, self.optimisers[IMITATION]
        optimiser.zero_grad(set_to_none=True)
        loss = phases.imitate(self.lesson, step)
        loss.backward()
        factor = rate_factor(step, settings.imitation, settings.warm_up, "cosine")
        return {"imitation": float(loss.detach())}, self._update(IMITATION, settings.rate * factor)

    def _begin_fake(self, step: int) -> tuple[dict[str, float], float]:
        own = phases.paint(self.lesson, step, FAKE, gradients=False)
        return {"fake": self._learn_fake(own, step, 0)}, 0.0

    def _match(self, step: int) -> tuple[dict[str, float], float]:
        settings, lesson = self.settings, self.lesson
        own = phases.paint(lesson, step, MATCH, gradients=True)
        fake = [self._learn_fake(own, step, turn) for turn in range(settings.fake_steps)]
        optimiser = self.optimisers[MATCHING]
        optimiser.zero_grad(set_to_none=True)
        loss, matching, guiding = phases.match(lesson, own, step)
        loss.backward()
        found = {"matching": matching, "guiding": guiding, "fake": sum(fake) / len(fake)}
        if lesson.first_matched(lesson.pupil(step)):
            anchor = phases.anchor(lesson, step)
            (settings.anchor * anchor).backward()
            found["first step"] = float(anchor.detach())
        place = step - settings.before_matching
        factor = rate_factor(place, settings.matching, settings.warm_up, "constant")
        return found, self._update(MATCHING, settings.matching_rate * factor)

    def _learn_fake(self, own: phases.Own, step: int, turn: int) -> float:
        optimiser = self.optimisers[FAKE_START]
        loss = phases.learn_fake(self.lesson, own, step, turn)
        loss.backward()
        norm = clip(self.fake_parameters.values(), self.settings.clip)
        self._refuse_nan(float(loss.detach()) + norm, "the fake score")
        self._set_rate(FAKE_START, self.settings.fake_rate)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)  # the student's step needs the room
        return float(loss.detach())

    def _update(self, phase: str, rate: float) -> float:
        norm = clip(self.parameters.values(), self.settings.clip)
        self._refuse_nan(norm, "the student")
        self._set_rate(phase, rate)
        self.optimisers[phase].step()
        return norm

    def _set_rate(self, phase: str, rate: float) -> None:
        for group in self.optimisers[phase].param_groups:
            group["lr"] = rate * self.guard.factor

    def _refuse_nan(self, value: float, who: str) -> None:
        """To go on would lead to the same, so nothing is saved."""
        if not math.isfinite(value):
            raise TrainingError(
                f"the gradient of {who} is {value} at step {self.step + 1}. Lower its rate, with "
                "another --out"
            )

    def _watch(self) -> Iterator[Event]:
        settings = self.settings
        ends = self.done or self.step == 0
        turns = self.step in (settings.imitation, settings.before_matching)
        if due(self.step, settings.evaluate_every) or ends or turns:
            yield self._evaluate()
        if settings.sample_every and (due(self.step, settings.sample_every) or ends or turns):
            with self.average.shown():
                yield Due(self.step)

    def _evaluate(self) -> Evaluated:
        with self.average.shown():
            figures = measure(self.lesson.student, self.wishes, self.teacher, self.settings.batch)
            matching = self.step > self.settings.before_matching
            if not matching or self.guard.sound(figures):
                self.guard.keep(self.step, figures, self._both())
                return Evaluated(self.step, figures)
        self._go_back()
        return Evaluated(self.step, figures, self.guard.step)

    def _go_back(self) -> None:
        """The last sound weights, and optimisers that forget what led astray."""
        Weights(self._both()).load_state_dict(self.guard.good)
        student = {name: self.guard.good[f"{STUDENT} {name}"] for name in self.parameters}
        self.average.load_state_dict(student)
        for phase in (MATCHING, FAKE_START):
            self.optimisers[phase].state.clear()
        self.guard.rollbacks, self.guard.back = self.guard.rollbacks + 1, True

    def _both(self) -> dict[str, nn.Parameter]:
        own = {f"{STUDENT} {name}": p for name, p in self.parameters.items()}
        return own | {f"{FAKE_ROLE} {name}": p for name, p in self.fake_parameters.items()}

    def _parts(self) -> dict[str, checkpoint.Stateful]:
        found: dict[str, checkpoint.Stateful] = {
            "student": Weights(self.parameters),
            "fake": Weights(self.fake_parameters),
            "average": self.average,
            "guard": self.guard,
        }
        return found | {f"optimiser of {name}": own for name, own in self.optimisers.items()}
