"""A distillation of the tiny transformer, in milliseconds a step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danqing.sampling.schedule import ScheduleConfig, schedule
from danqing.training.distill.draws import Draws
from danqing.training.distill.loop import Distillation, Event, Stepped
from danqing.training.distill.phases import Lesson
from danqing.training.distill.roles import Roles
from danqing.training.distill.settings import DistillSettings, check
from danqing.training.distill.student import Student
from danqing.training.distill.trajectories import Teacher, Texts, Trajectories
from danqing.training.trainable import Shape
from tests import tiny

PROMPTS = ("a red fox", "一只猫", "a house in the snow", "three lemons", "雪", "a cat", "二")
SIZES = [(64, 64), (96, 64)]
UNIT = 16
SETTINGS = DistillSettings(
    out="fast.safetensors",
    steps=2,
    rank=4,
    targets=("usual",),
    fake_rank=4,
    teacher_steps=6,
    guidance=3.0,
    trajectories=6,
    held_out=2,
    imitation=4,
    fake_start=2,
    matching=4,
    batch=3,
    warm_up=1,
    ema=0.5,
    rate=1e-2,
    matching_rate=1e-3,
    save_every=3,
    evaluate_every=3,
    sample_every=0,
    correction=0.5,
    limit=100.0,
)


def settings(**values: Any) -> DistillSettings:
    return check(replace(SETTINGS, **values))


def text(prompt: str) -> Tensor:
    return tiny.draw(2 + len(prompt), 64, seed=len(prompt))


TEXTS = Texts(text, tiny.draw(3, 64, seed=100))


def roles(own: DistillSettings) -> Roles:
    shapes = Shape(own.rank, float(own.rank)), Shape(own.fake_rank, float(own.fake_rank))
    return Roles(tiny.transformer(), own.targets, *shapes, own.seed)


def teacher(own: DistillSettings) -> Teacher:
    return Teacher(tuple(schedule(own.teacher_steps, 16, ScheduleConfig())), own.guidance, UNIT)


def distillation(folder: Path, own: DistillSettings) -> Distillation:
    """At its beginning, or where the folder's state says."""
    folder.mkdir(parents=True, exist_ok=True)
    base, way = roles(own), teacher(own)
    places = [0, 3, own.teacher_steps]
    count = own.trajectories + own.held_out
    wishes = Draws(own.seed).wishes(PROMPTS, SIZES, count)
    kept = Trajectories(folder / "trajectories", wishes, way, "tiny", places)
    for _ in kept.make(base, TEXTS, own.batch):
        pass
    student = Student(base, [way.sigmas[place] for place in places], TEXTS, UNIT)
    learnt = range(own.trajectories)
    lesson = Lesson(student, kept, learnt, PROMPTS, SIZES, own.guidance, own)
    held_out = [(wishes[i], kept[i][-1]) for i in range(own.trajectories, count)]
    return Distillation(lesson, held_out, folder, {})


def told(events: list[Event]) -> list[tuple[int, str, dict[str, float], float]]:
    return [(e.step, e.phase, e.losses, e.norm) for e in events if isinstance(e, Stepped)]


def weights(of: Distillation) -> dict[str, Tensor]:
    both = {**of.parameters, **{f"fake {n}": p for n, p in of.fake_parameters.items()}}
    return {name: torch.clone(parameter.detach()) for name, parameter in both.items()}
