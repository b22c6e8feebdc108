"""One step of each phase: the loss of a batch, its gradients left in the parameters."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danqing.sampling import flow
from danqing.sampling.guidance import guide
from danqing.training.distill import losses
from danqing.training.distill.draws import IMITATE, MATCH, NOISE, PUPIL, Draws, normal
from danqing.training.distill.roles import FAKE as FAKE_ROLE
from danqing.training.distill.roles import TEACHER
from danqing.training.distill.settings import DistillSettings
from danqing.training.distill.student import Student
from danqing.training.distill.trajectories import Trajectories, Wish, query


@dataclass(frozen=True)
class Lesson:
    """What the phases learn from.

    ``student`` goes in the steps that are asked for, ``others`` are the same one in other numbers
    of steps. ``trajectories`` hold the teacher's states at all their nodes; those numbered in
    ``learnt`` are imitated; ``prompts`` and ``sizes`` are what matching draws its wishes from.
    """

    student: Student
    trajectories: Trajectories
    learnt: range
    prompts: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    guidance: float
    settings: DistillSettings
    others: Sequence[Student] = ()

    def first_matched(self, student: Student) -> int:
        """The first node that matching moves; a single step has no other one."""
        return 1 if self.settings.anchor and student.steps > 1 else 0

    def pupil(self, step: int) -> Student:
        """Who learns in this step: each number of steps in turn of chance."""
        every = (self.student, *self.others)
        return every[int(self.draws.rng(PUPIL, step).integers(len(every)))]

    @property
    def draws(self) -> Draws:
        return Draws(self.settings.seed)


# ---- imitation --------------------------------------------------------------------------------


def imitate(lesson: Lesson, step: int) -> Tensor:
    """The student's velocity at a node against that of the teacher's whole segment.

    A share of the pictures begins at the student's own state instead, and is led back to the
    teacher's next one: otherwise it never sees where its own errors take it (as in DAgger, Ross et
    al. 2011, arXiv 1011.0686).
    """
    settings, draws = lesson.settings, lesson.draws
    rngs = [draws.rng(IMITATE, step, place) for place in range(settings.batch)]
    nodes = [int(rng.integers(lesson.pupil(step).steps)) for rng in rngs]
    return follow(lesson, step, nodes, [rng.random() < settings.correction for rng in rngs])


def anchor(lesson: Lesson, step: int) -> Tensor:
    """The student's first step against the teacher's first segment, beside matching.

    What a picture shows is decided there, differently for every noise. Matching would have all
    noises show what is likeliest (DP-DMD, arXiv 2602.03139).
    """
    count = lesson.settings.batch
    return follow(lesson, step, [0] * count, [False] * count)


def follow(lesson: Lesson, step: int, nodes: Sequence[int], own: Sequence[bool]) -> Tensor:
    """The loss at a node of each trajectory; from the student's ``own`` state or the teacher's."""
    settings, student = lesson.settings, lesson.pupil(step)
    numbers = lesson.draws.numbers(IMITATE, step, settings.batch, len(lesson.learnt))
    ways = [lesson.trajectories[number] for number in numbers]
    wishes = [lesson.trajectories.wishes[number] for number in numbers]
    astray = student.until(wishes, [node if o else 0 for node, o in zip(nodes, own, strict=True)])
    states = [
        mine if o else way[student.places[node]]
        for mine, way, node, o in zip(astray, ways, nodes, own, strict=True)
    ]
    targets = [way[student.places[node + 1]] for way, node in zip(ways, nodes, strict=True)]
    levels = [student.nodes[node : node + 2] for node in nodes]
    found = student.velocities(states, [level[0] for level in levels], wishes)
    terms = [
        losses.imitation_loss(
            velocity, losses.segment_velocity(state, target, *level).to(velocity.device)
        )
        for velocity, state, target, level in zip(found, states, targets, levels, strict=True)
    ]
    return torch.stack(terms).mean()


# ---- distribution matching --------------------------------------------------------------------


@dataclass(frozen=True)
class Own:
    """What the student paints in a step of matching: where it stands at a node, and the clean
    samples that it points to, with gradients."""

    wishes: list[Wish]
    sigmas: list[float]
    clean: list[Tensor]


def paint(lesson: Lesson, step: int, purpose: int, *, gradients: bool) -> Own:
    """The student's pictures of fresh prompts and noise, seen from a node of its trajectory.

    Not from the first one where that is anchored.
    """
    settings, student, draws = lesson.settings, lesson.pupil(step), lesson.draws
    first = len(lesson.trajectories) + step * settings.batch  # none that the teacher painted
    wishes = draws.wishes(lesson.prompts, lesson.sizes, settings.batch, first)
    nodes = [
        int(draws.rng(purpose, step, place).integers(lesson.first_matched(student), student.steps))
        for place in range(settings.batch)
    ]
    states = student.until(wishes, nodes)
    sigmas = [student.nodes[node] for node in nodes]
    with torch.set_grad_enabled(gradients):
        found = student.velocities(states, sigmas, wishes)
    clean = [
        flow.denoised(state.to(velocity.device), sigma, velocity)
        for state, sigma, velocity in zip(states, sigmas, found, strict=True)
    ]
    return Own(wishes, sigmas, clean)


def learn_fake(lesson: Lesson, own: Own, step: int, turn: int) -> Tensor:
    """The fake score on the student's pictures as they are now."""
    draws, student = lesson.draws, lesson.student
    queries, noises = [], []
    for place, (clean, wish) in enumerate(zip(own.clean, own.wishes, strict=True)):
        rng = draws.rng(NOISE, step * lesson.settings.fake_steps + turn, place)
        tau = level(rng.random(), lesson.settings.tau_low, lesson.settings.tau_high)
        noise = normal(rng, clean).to(clean.device)
        state = flow.interpolate(clean.detach(), noise, tau)
        queries.append(query(FAKE_ROLE, state, tau, wish, student.texts, student.unit))
        noises.append(noise)
    found = student.roles.ask(queries)
    terms = [
        losses.fake_loss(velocity, clean.detach(), noise)
        for velocity, clean, noise in zip(found, own.clean, noises, strict=True)
    ]
    return torch.stack(terms).mean()


def match(lesson: Lesson, own: Own, step: int) -> tuple[Tensor, float, float]:
    """Moves the student's pictures to where teacher and guidance want them.

    Returns the loss, and how long the two directions are: of matching, and of guidance.
    """
    with torch.no_grad():
        pairs = directions(lesson, own, step)
    terms = [
        losses.push(clean, to_teacher + to_guided)
        for clean, (to_teacher, to_guided) in zip(own.clean, pairs, strict=True)
    ]
    lengths = [float(torch.stack([pair[i].abs().mean() for pair in pairs]).mean()) for i in (0, 1)]
    return torch.stack(terms).mean(), lengths[0], lengths[1]


def directions(lesson: Lesson, own: Own, step: int) -> list[tuple[Tensor, Tensor]]:
    """Of each picture: towards the teacher's pictures, compared at any noise level; and what
    guidance adds, at levels below the node's only, since what is coarser is decided already.
    All four questions to teacher and fake score ride in one pack.
    """
    settings, student, draws = lesson.settings, lesson.student, lesson.draws
    queries, levels = [], []
    for place, (clean, wish, sigma) in enumerate(
        zip(own.clean, own.wishes, own.sigmas, strict=True)
    ):
        rng = draws.rng(MATCH, step, settings.batch + place)
        tau = level(rng.random(), settings.tau_low, settings.tau_high)
        below = level(rng.random(), settings.tau_low, max(sigma, 2 * settings.tau_low))
        noises = [normal(rng, clean).to(clean.device) for _ in range(2)]
        far, near = (
            flow.interpolate(clean.detach(), noise, s)
            for noise, s in zip(noises, (tau, below), strict=True)
        )
        ask = [
            query(TEACHER, far, tau, wish, student.texts, student.unit),
            query(FAKE_ROLE, far, tau, wish, student.texts, student.unit),
            query(TEACHER, near, below, wish, student.texts, student.unit),
        ]
        queries += [*ask, student.texts.unprompted(ask[2])]
        levels.append((tau, below))
    answers = student.roles.ask(queries)
    found = []
    for place, (clean, (tau, below)) in enumerate(zip(own.clean, levels, strict=True)):
        teacher, fake, near, blank = answers[4 * place : 4 * place + 4]
        far_state, near_state = queries[4 * place].state, queries[4 * place + 2].state
        wanted = flow.denoised(far_state, tau, teacher)
        faked = flow.denoised(far_state, tau, fake)
        plain = flow.denoised(near_state, below, near)
        guided = flow.denoised(near_state, below, guide(near, blank, lesson.guidance))
        now = clean.detach()
        found.append(
            (
                losses.in_units(losses.matching(wanted, faked), wanted, now),
                losses.in_units(losses.guiding(guided, plain), plain, now),
            )
        )
    return found


def level(chance: float, low: float, high: float) -> float:
    """Uniform between the two."""
    return low + (high - low) * chance
