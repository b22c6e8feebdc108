"""A whole training, from settings to the file: what happens when, told as events."""

import os
import resource
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from danqing.models.transformer import Transformer
from danqing.training import checkpoint, prepare, results
from danqing.training.loop import Due, Event, Saved
from danqing.training.plan import Plan, check_fits, savings
from danqing.training.plan import plan as make_plan
from danqing.training.prepare import Pictures, Place
from danqing.training.rounding import rounding
from danqing.training.settings import Settings
from danqing.types import BLANK
from danqing.weights import plan as memory
from danqing.weights.fingerprint import fingerprint

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Found:
    """The data are sound: so many pictures to learn from and to measure on, at these sizes."""

    learnt: int
    held_out: int
    sizes: dict[str, int]


@dataclass(frozen=True)
class Planned:
    plan: Plan


@dataclass(frozen=True)
class Encoding:
    done: int
    total: int


@dataclass(frozen=True)
class Quantised:
    """The frozen weights are in eight bits; ``error`` is the velocity's, as a share of it."""

    error: float


@dataclass(frozen=True)
class Resumed:
    step: int


@dataclass(frozen=True)
class Sampled:
    """Pictures of the prompts, a row for each way of sampling."""

    step: int
    rows: "dict[str, list[Image]]"


@dataclass(frozen=True)
class Finished:
    """What was written; ``peak`` is the measured memory beside the planned one, in bytes.

    ``reason`` is one of the loop's ``DONE``, ``ASKED`` and ``TIME``.
    """

    step: int
    paths: tuple[Path, ...]
    peak: int
    planned: int
    reason: str


Told = Found | Planned | Encoding | Quantised | Resumed | Sampled | Finished | Event
# Paints the prompts with the network as it is, by ways of sampling.
Painter = Callable[[Transformer], "dict[str, list[Image]]"]
MakePainter = Callable[[Settings, Place, Mapping[str, Tensor]], Painter]


def train(
    settings: Settings, device: torch.device, painter: MakePainter | None = None
) -> Iterator[Told]:
    """Train as the settings say, going on where the same training was left.

    Raises:
        DataError: pictures or captions cannot be used; all of them are named.
        TrainingError: the settings cannot be, memory does not suffice, or the loss is not finite.
        OutputError: the result cannot be written, or would replace what another made.
    """
    place, pictures, planned = yield from survey(settings, device)
    with results.owned(settings) as folder:
        cache = prepare.open_cache(settings, place, folder)
        texts = prepare.needed_texts(settings, pictures, settings.prompts)
        for done, total in prepare.fill_cache(cache, place, pictures, texts):
            yield Encoding(done, total)
        paint = None
        if painter and settings.prompts:
            shown = {text: cache.text(cache.text_key(text)) for text in (*settings.prompts, BLANK)}
            paint = painter(settings, place, shown)
        network = prepare.load_transformer(place, settings.quantise)
        if settings.quantise != "none" and not checkpoint.exists(folder):
            examples = prepare.some_examples(settings, place, pictures, cache)
            yield Quantised(rounding(network, place.folder, examples))
        base = {"id": settings.model_name, "fingerprint": fingerprint(place.folder)}
        identity = {
            "the data": pictures.digest,
            "the model": base["fingerprint"],
            "the dtype": str(place.dtype).removeprefix("torch."),
        }
        training = prepare.begin(settings, network, place, pictures, cache, folder, identity)
        results.write_settings(settings, folder)
        if training.step:
            yield Resumed(training.step)
        for event in training.run():
            if isinstance(event, Due):
                if paint is not None:
                    yield Sampled(event.step, paint(network))
            else:
                yield event
                if isinstance(event, Saved):
                    results.write_adapters(training, settings, base)
        paths = results.write_adapters(training, settings, base)
        if training.done and settings.kind == "full":
            paths = results.write_models(training, settings, place.folder)
        yield Finished(training.step, paths, peak_bytes(device), planned.peak, training.ended)


def survey(
    settings: Settings, device: torch.device
) -> Generator[Told, None, tuple[Place, Pictures, Plan]]:
    """What can be known before anything is loaded or written, with the errors of ``train``."""
    results.check(settings)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    place = prepare.place_of(settings, device)
    pictures = prepare.find_pictures(settings, place)
    yield found(pictures)
    planned = plan(settings, place, pictures)
    yield Planned(planned)
    return place, pictures, planned


def plan(settings: Settings, place: Place, pictures: Pictures) -> Plan:
    """The memory plan; TrainingError if it does not fit."""
    config = prepare.transformer_config(place)
    shapes = prepare.largest_pack(settings, place, pictures)
    around = prepare.around(settings, place, shapes, pictures)
    free = memory.free_memory(place.device)
    known = prepare.with_dtype(settings, place)
    found = check_fits(config, known, shapes, 0, free, around)
    return replace(found, process=own_bytes(place.device))


@dataclass(frozen=True)
class Outlook:
    """What a training would take: as it is, and with checkpointing the other way round.

    ``pack`` says of which pictures a step is; ``savings`` are ways to lower the peak, in bytes.
    """

    plan: Plan
    other: Plan
    pack: str
    free: int | None
    savings: list[tuple[str, int]]

    @property
    def fits(self) -> bool:
        return self.free is None or self.plan.peak - self.plan.process <= self.free


def outlook(settings: Settings, device: torch.device) -> Outlook:
    """The memory plan, with the largest pictures of the data, or without any."""
    place = prepare.place_of(settings, device)
    pictures = prepare.find_pictures(settings, place) if settings.data else None
    if pictures is not None:
        shapes = prepare.largest_pack(settings, place, pictures)
    else:
        shapes = prepare.usual_pack(settings, place)
    around = prepare.around(settings, place, shapes, pictures)
    config, known = prepare.transformer_config(place), prepare.with_dtype(settings, place)
    switched = replace(known, checkpointing=not known.checkpointing)
    own = make_plan(config, known, shapes, 0, around)
    other = make_plan(config, switched, shapes, 0, around)
    now = own_bytes(device)
    rows, columns, text = shapes[0]
    side = prepare.unit(place)
    return Outlook(
        plan=replace(own, process=now),
        other=replace(other, process=now),
        pack=f"{len(shapes)} x {columns * side}x{rows * side} with {text} tokens of text",
        free=memory.free_memory(device),
        savings=savings(config, known, shapes, around),
    )


def found(pictures: Pictures) -> Found:
    sizes: dict[str, int] = {}
    for picture in pictures.learnt:
        name = "x".join(map(str, picture.size))
        sizes[name] = sizes.get(name, 0) + 1
    return Found(len(pictures.learnt), len(pictures.held_out), sizes)


# ---- memory -----------------------------------------------------------------------------------


def own_bytes(device: torch.device) -> int:
    """What the process holds before the training, of the memory that is planned. To be asked after
    the plan was made: torch's simulation stays in memory."""
    return process_bytes() if device.type == "cpu" else 0


def process_bytes() -> int:
    """What this process holds in memory now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return peak_bytes(torch.device("cpu"))


def peak_bytes(device: torch.device) -> int:
    """The most that was held at any time so far.

    Linux's resource usage starts with the peak of the process that started this one.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
