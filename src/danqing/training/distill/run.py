"""A whole distillation, from settings to the file: what happens when, told as events."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from danqing.adapters import formats
from danqing.adapters.adapter import Sampling
from danqing.adapters.fold import fold
from danqing.adapters.safe import locate
from danqing.adapters.store import digest as of_file
from danqing.adapters.targets import check_fit, targets
from danqing.errors import TrainingError
from danqing.sampling.schedule import schedule
from danqing.training import checkpoint, prepare, results
from danqing.training.cache import Cache, Stamp
from danqing.training.distill.draws import Draws
from danqing.training.distill.loop import Clock, Distillation, Event
from danqing.training.distill.nodes import best_nodes, mean_costs
from danqing.training.distill.phases import Lesson
from danqing.training.distill.plan import check_fits, sizes_of
from danqing.training.distill.prompts import read_prompts
from danqing.training.distill.roles import STUDENT, Roles
from danqing.training.distill.settings import (
    FREE,
    NAMED,
    DistillSettings,
    split_strength,
    toml,
)
from danqing.training.distill.start import find_adapter, start_nodes, student_shape
from danqing.training.distill.student import Student
from danqing.training.distill.trajectories import Teacher, Texts, Trajectories, Wish, travel
from danqing.training.loop import TIME, Due, Saved
from danqing.training.memory import checkpoint_blocks
from danqing.training.prepare import Pictures, Place
from danqing.training.run import Encoding, Finished, Resumed, peak_bytes
from danqing.training.trainable import Shape
from danqing.weights import configs, model
from danqing.weights.fingerprint import fingerprint

if TYPE_CHECKING:
    from PIL.Image import Image

NODES = "the nodes"  # of the student, by which a resumed run is known
SEARCHED = 64  # trajectories that the nodes are found with
IN_MEMORY = 4096  # text features


@dataclass(frozen=True)
class Travelled:
    """So many of the teacher's trajectories are there."""

    done: int
    total: int


@dataclass(frozen=True)
class Noded:
    """The student's noise levels, without the closing 0."""

    nodes: tuple[float, ...]


@dataclass(frozen=True)
class Sampled:
    """Pictures of the prompts, a row for each way of sampling."""

    step: int
    rows: "dict[str, list[Image]]"


# Decodes packed latents [P, C] of so many rows and columns.
Decode = Callable[[Tensor, int, int], "Image"]
MakeDecoder = Callable[[Place], Decode]
Told = Encoding | Travelled | Noded | Resumed | Sampled | Finished | Event


@dataclass(frozen=True)
class Ready:
    """What a distillation begins with, once all that is slow is done."""

    lesson: Lesson
    teacher: Teacher
    held_out: list[tuple[Wish, Tensor]]
    base: Mapping[str, str]
    identity: Mapping[str, str]


def distill(
    settings: DistillSettings, device: torch.device, decoder: MakeDecoder | None = None
) -> Iterator[Told]:
    """Distil as the settings say, going on where the same distillation was left.

    Raises:
        DataError: the prompts cannot be used.
        AdapterError: an adapter is damaged, or does not fit.
        TrainingError: the settings cannot be, or a gradient is not finite.
        OutputError: the result cannot be written, or would replace what another made.
    """
    results.check(settings)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    place = prepare.place_of(settings, device)
    check_teacher(settings, place)
    prompts = read_prompts(settings.prompts_file, place.folder)
    planned = check_fits(settings, place)
    with results.owned(settings) as folder:
        told = {**settings.plain(), **identity_of(settings, place, prompts)}
        checkpoint.check(folder, told, FREE | NAMED | {NODES})
        texts = yield from encoded(settings, place, folder, prompts)
        roles = open_roles(settings, place)
        # What stands at a step makes one more at least, however soon the minutes are over.
        clock, begun = Clock(settings.minutes), checkpoint.exists(folder)
        ready = yield from prepared(
            settings, place, folder, prompts, texts, roles, Clock() if begun else clock
        )
        if ready is None:
            yield Finished(0, (), peak_bytes(device), planned, TIME)
            return
        distillation = Distillation(ready.lesson, ready.held_out, folder, ready.identity, clock)
        results.write_text(folder, toml(settings, folder))
        if distillation.step:
            yield Resumed(distillation.step)
        decode = decoder(place) if decoder and settings.prompts else None
        for event in distillation.run():
            if isinstance(event, Due):
                if decode is not None:
                    yield sampled(event.step, ready, settings, decode)
                continue
            yield event
            if isinstance(event, Saved):
                write(distillation, ready, settings)
        path = write(distillation, ready, settings)
        yield Finished(distillation.step, (path,), peak_bytes(device), planned, distillation.ended)


# ---- what is slow -----------------------------------------------------------------------------


def encoded(
    settings: DistillSettings, place: Place, folder: Path, prompts: Sequence[str]
) -> Generator[Told, None, Texts]:
    """Text features of every prompt, by encoders that are gone afterwards."""
    cache = Cache(
        cache_of(settings, folder) / "cache", Stamp.of(settings.model, place.folder), place.dtype,
        unit=prepare.unit(place),
    )  # fmt: skip
    needed = list(dict.fromkeys([*prompts, *settings.prompts, settings.negative]))
    for done, total in prepare.fill_cache(cache, place, Pictures([], [], ""), needed):
        yield Encoding(done, total)
    features: Callable[[str], Tensor] = lru_cache(IN_MEMORY)(
        lambda prompt: cache.text(cache.text_key(prompt))
    )
    return Texts(features, features(settings.negative))


def cache_of(settings: DistillSettings, folder: Path) -> Path:
    return Path(settings.cache) if settings.cache else folder


def open_roles(settings: DistillSettings, place: Place) -> Roles:
    """The frozen network with the user's adapters folded in, and the two adapters in training."""
    network = prepare.load_transformer(place, settings.quantise)
    known, own = targets(network), []
    for name, strength in map(split_strength, settings.adapters):
        adapter = formats.read(find_adapter(name, place))
        check_fit(adapter, known, name, settings.model)
        own.append((adapter, strength))
    fold(network, own, known)
    student, layers = student_shape(settings, place)
    fake = Shape(settings.fake_rank, float(settings.fake_rank))
    roles = Roles(network, layers, student, fake, settings.seed)
    if settings.start:
        roles.start_from(formats.read(find_adapter(settings.start, place)))
    if settings.checkpointing:
        checkpoint_blocks(network, roles.trainables.again)
    return roles


def prepared(
    settings: DistillSettings,
    place: Place,
    folder: Path,
    prompts: Sequence[str],
    texts: Texts,
    roles: Roles,
    clock: Clock,
) -> Generator[Told, None, Ready | None]:
    """The teacher's trajectories, and the nodes that they show to be best; nothing if the time is
    over before."""
    sizes = sizes_of(settings, place)
    teacher = teacher_of(settings, place, sizes[0])
    identity = identity_of(settings, place, prompts)
    draws = Draws(settings.seed)
    whole = hashed([identity["the teacher"], settings.negative])
    wishes = draws.wishes(prompts, sizes, settings.trajectories + settings.held_out)
    learnt, apart = wishes[: settings.trajectories], wishes[settings.trajectories :]
    store = cache_of(settings, folder) / "trajectories"
    made = start_nodes(settings, place)
    found = [settings.nodes] if settings.nodes else made
    every = sorted({node for nodes in found for node in nodes}, reverse=True)
    teacher = replace(teacher, sigmas=with_nodes(teacher.sigmas, every))
    if not found:
        some = Trajectories(store, learnt[:SEARCHED], teacher, whole)
        for done, _ in some.make(roles, texts, settings.batch):
            yield Travelled(done, settings.trajectories + settings.held_out)
            if clock.over and done < len(some):
                return None
        ways = (list(some[i]) for i in range(len(some)))
        costs = mean_costs(ways, teacher.sigmas)
        found = [best_nodes(costs, teacher.sigmas, n) for n in (settings.steps, *settings.also)]
    for nodes in found:
        yield Noded(nodes)
    paths = [[teacher.sigmas.index(node) for node in (*nodes, 0.0)] for nodes in found]
    places = sorted({place for path in paths for place in path})
    stored = None if settings.keep_all else places
    kept = Trajectories(store, [*learnt, *apart], teacher, whole, stored, places)
    for done, total in kept.make(roles, texts, settings.batch):
        yield Travelled(done, total)
        if clock.over and done < total:
            return None
    student, *others = (
        Student(roles, (*nodes, 0.0), texts, teacher.unit, [places.index(p) for p in path])
        for nodes, path in zip(found, paths, strict=True)
    )
    first = range(len(learnt))
    lesson = Lesson(student, kept, first, prompts, sizes, teacher.guidance, settings, others)
    held_out = [(wish, kept[len(learnt) + i][-1]) for i, wish in enumerate(apart)]
    base = {"id": settings.model_name, "fingerprint": fingerprint(place.folder)}
    return Ready(lesson, teacher, held_out, base, {**identity, NODES: hashed(found)})


def teacher_of(settings: DistillSettings, place: Place, size: tuple[int, int]) -> Teacher:
    """Its schedule is that of the first size, so that all sizes share the student's nodes."""
    unit = prepare.unit(place)
    patches = (size[0] // unit) * (size[1] // unit)
    sigmas = schedule(settings.teacher_steps, patches, configs.read_schedule(place.folder))
    guidance = settings.guidance or model.read_defaults(place.folder).guidance
    return Teacher(tuple(sigmas), guidance, unit)


def with_nodes(sigmas: Sequence[float], nodes: Sequence[float]) -> tuple[float, ...]:
    """The teacher's levels, each node in the place of the nearest one."""
    found = list(sigmas)
    for node in nodes:
        nearest = min(range(len(found) - 1), key=lambda i: abs(found[i] - node))
        found[nearest] = node
    lost = any(node not in found for node in nodes)
    if lost or any(a <= b for a, b in pairwise(found)):
        raise TrainingError(
            f"nodes {list(nodes)} lie closer together than the teacher's {len(sigmas) - 1} steps; "
            "give it more with --set teacher_steps=100"
        )
    return tuple(found)


def sampled(step: int, ready: Ready, settings: DistillSettings, decode: Decode) -> Sampled:
    """The student's pictures as it is now; at the beginning the teacher's, too."""
    lesson, size = ready.lesson, ready.lesson.sizes[0]
    wishes = [
        Wish(prompt, seed, size) for prompt in settings.prompts for seed in settings.sample_seeds
    ]
    rows, columns = (n // lesson.student.unit for n in (size[1], size[0]))
    student, few = lesson.student, f"{settings.steps} steps"
    found: dict[str, list[Tensor]] = {few: []}
    for start in range(0, len(wishes), settings.batch):
        own = wishes[start : start + settings.batch]
        found[few] += student.pictures(own)
        if step == 0:
            ways = travel(student.roles, own, student.texts, ready.teacher)
            many = found.setdefault(f"teacher, {settings.teacher_steps} steps", [])
            many += [way[-1] for way in ways]
    return Sampled(
        step, {way: [decode(state, rows, columns) for state in own] for way, own in found.items()}
    )


# ---- what must be so --------------------------------------------------------------------------


def check_teacher(settings: DistillSettings, place: Place) -> None:
    """A teacher that already is a few-step model has nothing left to teach."""
    defaults = model.read_defaults(place.folder)
    if settings.guidance is None and defaults.guidance == 1:
        raise TrainingError(
            f"{settings.model_name} samples in {defaults.steps} steps without guidance: it is a "
            "few-step model already; give the model that it was made from, or --guidance"
        )
    for name, _ in map(split_strength, settings.adapters):
        made = formats.read(find_adapter(name, place)).sampling
        if made is not None:
            raise TrainingError(
                f"adapter {name} was made for {made}: a teacher with it is a few-step model "
                "already. Leave it out, or begin from it with --start"
            )


def identity_of(settings: DistillSettings, place: Place, prompts: Sequence[str]) -> dict[str, str]:
    """What a resumed distillation must find again, whatever it is called."""
    pairs = [split_strength(adapter) for adapter in settings.adapters]
    adapters = [[digest(find_adapter(name, place)), strength] for name, strength in pairs]
    dtype = str(place.dtype).removeprefix("torch.")
    start = digest(find_adapter(settings.start, place)) if settings.start else None
    return {
        "the prompts": hashed(list(prompts)),
        "the teacher": hashed([fingerprint(place.folder), adapters, dtype, settings.quantise]),
        "the start": hashed(start),
    }


def digest(path: Path) -> str:
    return of_file(locate(path))


def hashed(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


# ---- the result -------------------------------------------------------------------------------


def write(distillation: Distillation, ready: Ready, settings: DistillSettings) -> Path:
    """The averaged student, which knows how to be sampled."""
    lesson = ready.lesson
    nodes, also = tuple(lesson.student.nodes), tuple(tuple(own.nodes) for own in lesson.others)
    with distillation.average.shown():
        adapter = lesson.student.roles.adapter(STUDENT)
    noted = replace(adapter, sampling=Sampling(settings.steps, nodes, 1.0, also))
    path = Path(settings.out)
    results.write_adapter(noted, path, settings, ready.base, distillation.weights_of)
    return path
