"""The few-step adapter that a student begins as, and what the student takes over from it."""

import re
from pathlib import Path

from danqing.adapters import formats, published
from danqing.adapters.write import kind_of
from danqing.errors import TrainingError
from danqing.training.distill.settings import DistillSettings
from danqing.training.prepare import Place
from danqing.training.trainable import Shape

RANK = 32
LAYERS = ("all",)


def find_adapter(name: str, place: Place) -> Path:
    """A file, one of the model's own, or one that is published: as a pipeline finds them."""
    return published.find(name, model=place.folder)


def student_shape(settings: DistillSettings, place: Place) -> tuple[Shape, tuple[str, ...]]:
    """Shape and layers of the student's adapter: as told, else as in the one to start from."""
    rank, layers = settings.rank, settings.targets
    if settings.start and (rank is None or not layers):
        updates = formats.read(find_adapter(settings.start, place)).updates
        layers = layers or tuple(dict.fromkeys(re.escape(kind_of(name)) for name in updates))
        ranks = [len(own.parts["down"]) for own in updates.values() if "down" in own.parts]
        rank = rank or max(ranks, default=None)
    rank = rank or RANK
    return Shape(rank, float(rank if settings.alpha is None else settings.alpha)), layers or LAYERS


def start_nodes(settings: DistillSettings, place: Place) -> list[tuple[float, ...]]:
    """Those that the adapter to start from was made for, for every number of steps; none without
    such an adapter, or if it does not tell all of them."""
    if not settings.start:
        return []
    made = formats.read(find_adapter(settings.start, place)).sampling
    if made and made.steps != settings.steps:
        raise TrainingError(
            f"adapter {settings.start} was made for {made}, and the student is to have "
            f"{settings.steps} steps; give --steps {made.steps}, or another --start"
        )
    known = [made.levels(n) if made else None for n in (settings.steps, *settings.also)]
    return [levels[:-1] for levels in known if levels] if all(known) else []
