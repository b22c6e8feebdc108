"""A whole training, from settings to the file: what happens when, told as events.

Beside the result ``mine.safetensors`` stands the folder ``mine.run`` with the state, the log, the
samples, the cache and the report.
"""

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from danqing.adapters import write as writing
from danqing.adapters.adapter import Adapter
from danqing.errors import OutputError, TrainingError
from danqing.models.transformer import Transformer
from danqing.training import prepare
from danqing.training.loop import Due, Event, Saved, Training
from danqing.training.plan import Plan, check_fits
from danqing.training.prepare import Pictures, Place
from danqing.training.settings import Settings
from danqing.training.subject import LoraSubject
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
    """What was written; ``peak`` is the measured memory beside the planned one, in bytes."""

    step: int
    paths: tuple[Path, ...]
    peak: int
    planned: int


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
    """
    folder = run_folder(settings)
    place = prepare.place_of(settings, device)
    with owned(folder):
        pictures = prepare.find_pictures(settings, place)
        yield found(pictures)
        planned = plan(settings, place, pictures)
        yield Planned(planned)
        cache = prepare.open_cache(settings, place, folder)
        texts = prepare.needed_texts(settings, pictures, settings.prompts)
        for done, total in prepare.fill_cache(cache, place, pictures, texts):
            yield Encoding(done, total)
        paint = None
        if painter and settings.prompts:
            shown = {text: cache.text(cache.text_key(text)) for text in (*settings.prompts, BLANK)}
            paint = painter(settings, place, shown)
        network = prepare.load_transformer(place)
        training = prepare.begin(settings, network, place, pictures, cache, folder)
        base = {"id": settings.model, "fingerprint": fingerprint(place.folder)}
        if training.step:
            yield Resumed(training.step)
        for event in training.run():
            if isinstance(event, Due):
                if paint is not None:
                    yield Sampled(event.step, paint(network))
            else:
                yield event
                if isinstance(event, Saved):
                    write_result(training, settings, base)
        paths = write_result(training, settings, base)
        yield Finished(training.step, paths, peak_bytes(device), planned.peak)


def plan(settings: Settings, place: Place, pictures: Pictures) -> Plan:
    """The memory plan; TrainingError if it does not fit."""
    config = prepare.transformer_config(place)
    shapes = prepare.largest_pack(settings, place, pictures)
    free = memory.free_memory(place.device)
    now = process_bytes() if place.device.type == "cpu" else 0
    return check_fits(config, prepare.with_dtype(settings, place), shapes, now, free)


def found(pictures: Pictures) -> Found:
    sizes: dict[str, int] = {}
    for picture in pictures.learnt:
        name = "x".join(map(str, picture.size))
        sizes[name] = sizes.get(name, 0) + 1
    return Found(len(pictures.learnt), len(pictures.held_out), sizes)


# ---- files ------------------------------------------------------------------------------------


def run_folder(settings: Settings) -> Path:
    """``mine.run`` for ``mine.safetensors``; made if need be."""
    out = Path(settings.out)
    if settings.kind == "lora" and out.suffix != ".safetensors":
        other = out.with_suffix(".safetensors")
        raise TrainingError(f"adapters are written as safetensors; give --out {other}")
    folder = out.with_name(f"{out.stem}.run")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make {folder}: {error.strerror}; choose another --out"
        ) from error
    return folder


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Two processes in one run folder would overwrite each other's state."""
    import fcntl

    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise TrainingError(
            f"another training is running in {folder}; wait for it or stop it"
        ) from error
    try:
        yield
    finally:
        lock.close()


def write_result(
    training: Training, settings: Settings, base: Mapping[str, str]
) -> tuple[Path, ...]:
    """The averaged weights as they are now, and beside them the best ones, if they differ."""
    if not isinstance(training.subject, LoraSubject):
        return ()  # all weights are written at the end, by the caller
    out = Path(settings.out)
    with training.averaged():
        write_adapter(training.subject.adapter(), out, settings, base, training.step)
    paths = [out]
    best = training.best
    if best.weights and best.step not in (0, training.step):
        path = out.with_name(f"{out.stem}-best.safetensors")
        with training.holding(best.weights):
            write_adapter(training.subject.adapter(), path, settings, base, best.step)
        paths.append(path)
    return tuple(paths)


def write_adapter(
    adapter: Adapter, path: Path, settings: Settings, base: Mapping[str, str], step: int
) -> None:
    told = {"settings": settings.learnt_from(), "step": step}
    metadata = {"danqing_training": json.dumps(told, sort_keys=True, ensure_ascii=False)}
    noted = replace(adapter, base=base, metadata=metadata)
    writing.write(noted, path, settings.naming, overwrite=True)


# ---- memory -----------------------------------------------------------------------------------


def process_bytes() -> int:
    """What this process holds in memory now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return peak_bytes(torch.device("cpu"))


def peak_bytes(device: torch.device) -> int:
    """The most that was held at any time so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
