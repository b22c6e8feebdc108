"""What a distillation takes, said before it begins: memory and hours, phase by phase.

Memory is simulated like a training's. Time is measured here and now: two short networks of the
model's own width, forward and with gradients, on the device in question; every further block costs
what the second one did. Then evaluations are counted.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from danqing.errors import TrainingError
from danqing.models.transformer import Transformer, TransformerConfig
from danqing.training import prepare
from danqing.training.distill.roles import STUDENT, TEACHER, Query, Roles
from danqing.training.distill.settings import DistillSettings, size_of
from danqing.training.distill.start import LAYERS, student_shape
from danqing.training.distill.trajectories import IN_MEMORY
from danqing.training.memory import checkpoint_blocks, quantise_blocks
from danqing.training.plan import LIBRARIES, Run, added
from danqing.training.prepare import Place
from danqing.training.settings import Settings
from danqing.training.simulate import forward_bytes
from danqing.weights import model
from danqing.weights.plan import free_memory, gigabytes

REPEATS = 3
AT_ONCE = 4096  # patches
ADAM = 8  # bytes of state for a trained number


@dataclass(frozen=True)
class Phase:
    """``plain`` and ``learnt``: evaluations of the network on one picture, without gradients and
    with them; ``memory`` in bytes, the base's weights included."""

    name: str
    plain: int
    learnt: int
    memory: int


@dataclass(frozen=True)
class Cost:
    """Seconds for the network on one picture, without gradients and with them."""

    plain: float
    learnt: float

    def hours(self, phase: Phase) -> float:
        return (phase.plain * self.plain + phase.learnt * self.learnt) / 3600


@dataclass(frozen=True)
class Outlook:
    phases: list[Phase]
    cost: Cost
    weights: int
    trained: int  # numbers of the student's adapter
    pack: str

    @property
    def peak(self) -> int:
        return max(phase.memory for phase in self.phases)

    @property
    def hours(self) -> float:
        return sum(self.cost.hours(phase) for phase in self.phases)


@dataclass(frozen=True)
class Memory:
    """Bytes by phase; ``weights`` of them are the base's. ``trained``: numbers of the student."""

    phases: dict[str, int]
    weights: int
    trained: int

    @property
    def peak(self) -> int:
        return max(self.phases.values())


def outlook(settings: DistillSettings, device: torch.device) -> Outlook:
    place = prepare.place_of(settings, device)
    counts, found = evaluations(settings), memory_of(settings, place)
    phases = [Phase(name, *counts[name], own) for name, own in found.phases.items()]
    rows, columns, tokens = shape = pictured(settings, place)
    unit = prepare.unit(place)
    return Outlook(
        phases=phases,
        cost=measured(prepare.transformer_config(place), settings, place, shape),
        weights=found.weights,
        trained=found.trained,
        pack=f"{settings.batch} x {columns * unit}x{rows * unit} with {tokens} tokens of text",
    )


def check_fits(settings: DistillSettings, place: Place) -> int:
    """The peak in bytes; TrainingError if it is more than is free."""
    peak, free = memory_of(settings, place).peak, free_memory(place.device)
    if free is not None and peak > free:
        raise TrainingError(
            f"the distillation takes {gigabytes(peak)}, {gigabytes(free)} are free; give a smaller "
            "--batch or --size, --checkpointing, or --quantise int8"
        )
    return peak


def pictured(settings: DistillSettings, place: Place) -> tuple[int, int, int]:
    """Rows and columns of patches of the largest size, and tokens of a usual prompt."""
    width, height = max(sizes_of(settings, place), key=math.prod)
    unit = prepare.unit(place)
    return height // unit, width // unit, prepare.USUAL_TEXT


def sizes_of(settings: DistillSettings, place: Place) -> list[tuple[int, int]]:
    """Of the pictures; TrainingError if one is not made of whole patches."""
    sizes = [size_of(text) for text in settings.sizes]
    unit = prepare.unit(place)
    for width, height in sizes:
        if width % unit or height % unit:
            raise TrainingError(f"size {width}x{height} must be two multiples of {unit}")
    return sizes or [model.read_defaults(place.folder).size]


def memory_of(settings: DistillSettings, place: Place) -> Memory:
    """Of each phase that there is, simulated."""
    config = prepare.transformer_config(place)
    shape = pictured(settings, place)
    ranks = student_shape(settings, place)[0].rank, settings.fake_rank
    student, fake = (as_training(settings, place, rank) for rank in ranks)
    own = Run(config, student, [shape] * settings.batch, None)
    other = Run(config, fake, [shape] * settings.batch, None)
    asked = forward_bytes(config, student, [shape] * (4 * settings.batch))
    guided = forward_bytes(config, student, [shape] * (2 * settings.batch))
    # Adapters, the student's average, and what the guard goes back to.
    held = own.weights + LIBRARIES + (4 + 4 + 4) * own.trained + (4 + 4) * other.trained
    held += states_bytes(settings, config, shape) if place.device.type == "cpu" else 0
    both = held + 2 * ADAM * own.trained + ADAM * other.trained
    counts = evaluations(settings)
    phases = {
        "trajectories": held + added(guided),
        "imitation": held + ADAM * own.trained + added(own.working),
        "fake score": both + added(other.working),
        # The student's activations wait while the fake score learns from its pictures.
        "matching": both + added(own.working + max(other.working, asked)),
    }
    return Memory({n: b for n, b in phases.items() if any(counts[n])}, own.weights, own.trained)


def states_bytes(
    settings: DistillSettings, config: TransformerConfig, shape: tuple[int, int, int]
) -> int:
    """The trajectories that stay in memory: a state at each of the student's nodes, in float32."""
    rows, columns, _ = shape
    nodes = sum(steps + 1 for steps in (settings.steps, *settings.also))
    count = settings.trajectories + settings.held_out
    return min(IN_MEMORY, 4 * rows * columns * config.in_channels * nodes * count)


def as_training(settings: DistillSettings, place: Place, rank: int) -> Settings:
    """The training that takes as much memory as one of the adapters."""
    return Settings(
        rank=rank,
        targets=student_shape(settings, place)[1],
        dtype=str(place.dtype).removeprefix("torch."),
        quantise=settings.quantise,
        checkpointing=settings.checkpointing,
        holdout=0.0,
    )


def evaluations(settings: DistillSettings) -> dict[str, tuple[int, int]]:
    """Of each phase: without gradients, and with them."""
    batch, ways = settings.batch, (settings.steps, *settings.also)
    before = sum((steps - 1) / 2 for steps in ways) / len(ways)  # steps to a node, on average
    imitated = round(batch * settings.correction * before)
    kept = settings.trajectories + settings.held_out
    fake_start = settings.before_matching - settings.imitation
    anchored = 1 if settings.anchor and settings.steps > 1 else 0
    later = before + anchored / 2  # the first node is left out
    return {
        "trajectories": (2 * kept * settings.teacher_steps, 0),
        "imitation": (settings.imitation * imitated, settings.imitation * batch),
        "fake score": (fake_start * round(batch * (later + 1)), fake_start * batch),
        "matching": (
            settings.matching * round(batch * (later + 4)),
            settings.matching * batch * (1 + settings.fake_steps + anchored),
        ),
    }  # fmt: skip


# ---- time -------------------------------------------------------------------------------------


def measured(
    config: TransformerConfig, settings: DistillSettings, place: Place, shape: tuple[int, int, int]
) -> Cost:
    """Of the whole network, from one block and from two; as if all layers learnt, where those of
    the student are in later blocks alone."""
    try:
        one, two = (
            block_seconds(replace(config, num_layers=layers), settings, place, shape)
            for layers in (1, 2)
        )
    except TrainingError:
        return measured(config, replace(settings, targets=LAYERS), place, shape)
    further = config.num_layers - 1
    plain, learnt = (a + further * max(b - a, 0.0) for a, b in zip(one, two, strict=True))
    return Cost(plain, learnt)


def block_seconds(
    config: TransformerConfig, settings: DistillSettings, place: Place, shape: tuple[int, int, int]
) -> tuple[float, float]:
    """Of one picture in a pack: without gradients, and with them; the best of a few runs each."""
    with torch.device(place.device):
        network = Transformer(config).to(place.dtype)
    if settings.quantise != "none":
        quantise_blocks(network, settings.quantise)
    own, layers = student_shape(settings, place)
    roles = Roles(network, layers, own, own, seed=0)
    if settings.checkpointing:
        checkpoint_blocks(network, roles.trainables.again)
    rows, columns, tokens = shape
    count = max(1, min(settings.batch, AT_ONCE // (rows * columns)))
    state = torch.randn(rows * columns, config.in_channels)
    text = torch.randn(tokens, config.joint_attention_dim)

    def plain() -> None:
        with torch.no_grad():
            roles.ask([Query(TEACHER, state, 0.5, text, rows, columns)] * count)

    def learnt() -> None:
        found = roles.ask([Query(STUDENT, state, 0.5, text, rows, columns)] * count)
        Tensor.backward(torch.stack(found).square().mean())

    return best_seconds(plain, place) / count, best_seconds(learnt, place) / count


def best_seconds(work: Callable[[], None], place: Place) -> float:
    found = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        work()
        if place.device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found[1:])  # the first one warms up
