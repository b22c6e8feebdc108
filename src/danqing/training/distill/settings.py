"""Everything that a distillation can be told, from a TOML file or from flags."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from danqing.adapters.write import NAMINGS
from danqing.errors import TrainingError
from danqing.training import reading
from danqing.training.memory import QUANTISED
from danqing.training.settings import UNIT, check_dtype
from danqing.types import BLANK

# Settings that a resumed run may change: they do not touch what is learnt.
FREE = frozenset(
    ("out", "save_dtype", "naming", "device", "threads", "minutes", "save_every",
     "sample_every", "prompts", "sample_seeds", "cache", "keep_all")
)  # fmt: skip
# Compared by what they hold, wherever that lies.
NAMED = frozenset(("prompts_file", "model", "adapters", "start", "dtype"))


MAX_STRENGTH = 100  # as of a picture's adapters


@dataclass(frozen=True)
class DistillSettings:
    """One distillation. Lists are tuples.

    Attributes:
        model: what ``danqing.load`` takes; the teacher, and the student's base.
        adapters: a user's own, each ``FILE`` or ``FILE:STRENGTH``, on in teacher and student.
        start: a few-step adapter that the student begins as.
        prompts_file: a prompt a line; the model's own list by default.
        steps: of the student; ``also`` are other numbers of steps that the same adapter serves.
        nodes: its noise levels from 1, without the closing 0; searched for by default.
        sizes: of the pictures, each ``WIDTHxHEIGHT``, in turn; the model's default by default.
        rank, targets: of the student's adapter; those of ``start`` by default, else 32 and all
            layers. ``alpha`` is the rank by default. ``fake_rank``: of the fake score's adapter.
        teacher_steps: of the teacher; ``guidance`` its own, the model's default if not given.
        trajectories: of the teacher that are kept, to imitate and to find the nodes with;
            ``held_out`` more to measure on.
        cache: folder of text features and trajectories; in the run's own by default.
        keep_all: keep the teacher's states at all its levels, for students of other steps.
        imitation: steps of learning the teacher's trajectories.
        correction: share of the pictures for which it goes on from the student's own states.
        fake_start: steps in which only the fake score learns; ``fake_steps`` before each step of
            matching.
        matching: steps of distribution matching.
        anchor: weight of the first step's imitation beside it, which is not matched then and keeps
            the pictures as different as the teacher's; 0 matches every step.
        tau_low, tau_high: noise levels at which distributions are compared.
        batch: pictures of a pack.
        rate, matching_rate, fake_rate: learning rates of the phases.
        ema: decay of the weights' average, which is what is written.
        limit: how far the channels of the student's latents may drift from the teacher's, in the
            teacher's deviations; beyond it the run goes back to where they had not.
    """

    model: str = "mini"
    adapters: tuple[str, ...] = ()
    start: str | None = None
    prompts_file: str = ""
    negative: str = BLANK
    out: str = ""
    seed: int = 0
    # the student
    steps: int = 4
    also: tuple[int, ...] = ()
    nodes: tuple[float, ...] = ()
    rank: int | None = None
    alpha: float | None = None
    targets: tuple[str, ...] = ()
    naming: str = "diffusers"
    save_dtype: str = "bfloat16"
    sizes: tuple[str, ...] = ()
    # the teacher
    teacher_steps: int = 50
    guidance: float | None = None
    trajectories: int = 512
    held_out: int = 32
    cache: str = ""
    keep_all: bool = False
    # imitation
    imitation: int = 400
    rate: float = 1e-3
    correction: float = 0.3
    # distribution matching
    matching: int = 300
    matching_rate: float = 1e-4
    fake_rank: int = 64
    fake_rate: float = 4e-4
    fake_start: int = 100
    fake_steps: int = 2
    anchor: float = 0.1
    tau_low: float = 0.02
    tau_high: float = 0.98
    # the steps
    batch: int = 16
    warm_up: int = 20
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.98
    limit: float = 0.5
    # the machine
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    quantise: str = "none"
    checkpointing: bool = False
    minutes: float | None = None
    # what is watched
    save_every: int = 50
    evaluate_every: int = 50
    sample_every: int = 100
    prompts: tuple[str, ...] = ()
    sample_seeds: tuple[int, ...] = (0, 1)

    @property
    def kind(self) -> str:
        return "lora"

    @property
    def data(self) -> tuple[str, ...]:
        """It learns from no pictures."""
        return ()

    @property
    def before_matching(self) -> int:
        """Steps until matching begins; the fake score is for nothing else."""
        return self.imitation + (self.fake_start if self.matching else 0)

    @property
    def total(self) -> int:
        return self.before_matching + self.matching

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return json.loads(json.dumps(asdict(self)))

    def learnt_from(self) -> dict[str, Any]:
        """The settings that decide what is learnt, for the adapter's metadata; of files only the
        last part of their names."""
        plain = {name: value for name, value in self.plain().items() if name not in FREE}
        short = {name: Path(plain[name]).name for name in ("prompts_file", "start") if plain[name]}
        adapters = [Path(name).name for name in self.adapters]
        return {**plain, **short, "adapters": adapters, "model": self.model_name}

    @property
    def model_name(self) -> str:
        """As the world knows it: a hub id, or the last part of a folder's name."""
        folder = Path(self.model)
        return folder.resolve().name if folder.is_dir() else self.model


def read(path: Path | None, flags: Mapping[str, Any], *, whole: bool = True) -> DistillSettings:
    """Settings: the file's, above them the flags'. ``whole`` ones name a place for the result.

    Raises:
        TrainingError: a name that is not known, or a value that cannot be.
    """
    given = {**(reading.read_toml(path) if path else {}), **flags}
    settings = check(reading.make(DistillSettings, given))
    if whole and not settings.out:
        raise TrainingError("no place for the result; give --out fast.safetensors")
    return settings


def toml(settings: DistillSettings, folder: Path) -> str:
    return reading.toml(settings, DistillSettings(), folder)


RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 100), "rank": (1, 4096), "fake_rank": (1, 4096), "alpha": (1e-6, 1e6),
    "teacher_steps": (2, 1000), "guidance": (1, 100), "trajectories": (1, 10**7),
    "held_out": (1, 10**5), "imitation": (0, 10**7), "matching": (0, 10**7),
    "rate": (1e-12, 10), "matching_rate": (1e-12, 10), "fake_rate": (1e-12, 10),
    "correction": (0, 1), "fake_start": (0, 10**7), "fake_steps": (1, 100), "anchor": (0, 100),
    "tau_low": (1e-3, 0.4), "tau_high": (1e-3, 0.999), "batch": (1, 4096),
    "warm_up": (0, 10**7), "weight_decay": (0, 1), "clip": (0, 1e9), "ema": (0, 0.99999),
    "limit": (1e-3, 1e3), "save_every": (0, 10**7), "evaluate_every": (0, 10**7),
    "sample_every": (0, 10**7), "seed": (0, 2**63 - 1), "minutes": (0, 1e9),
    "threads": (1, 1024),
}  # fmt: skip


def check(settings: DistillSettings) -> DistillSettings:
    """The settings, or an error that names the value, the limit and the remedy."""
    reading.check_choices(settings, {"quantise": ("none", *QUANTISED), "naming": tuple(NAMINGS)})
    reading.check_ranges(settings, RANGES)
    for size in settings.sizes:
        size_of(size)
    check_also(settings)
    check_levels(settings)
    if settings.adapters and settings.quantise != "none":
        raise TrainingError(
            "an adapter cannot be folded into 8 bits; leave --quantise out, or merge it first with "
            "danqing adapter merge"
        )
    if not settings.total:
        raise TrainingError("imitation and matching are 0: nothing would be learnt; give one")
    if not settings.sample_seeds:
        raise TrainingError("sample_seeds is empty; leave it out for the usual ones")
    if not all(0 <= seed < 2**63 for seed in settings.sample_seeds):
        raise TrainingError(f"sample_seeds {list(settings.sample_seeds)} must be from 0")
    for adapter in settings.adapters:
        if not split_strength(adapter)[1]:
            raise TrainingError(f"adapter {adapter} has no effect at strength 0; leave it out")
    for name in ("save_dtype", "dtype"):
        check_dtype(name, getattr(settings, name))
    return settings


def check_also(settings: DistillSettings) -> None:
    also = settings.also
    if not all(1 <= n <= 100 for n in also) or len({settings.steps, *also}) <= len(also):
        raise TrainingError(
            f"also {list(also)} must be other numbers of steps than {settings.steps}, each once, "
            "as --set also=[2,8]"
        )
    if also and settings.nodes:
        raise TrainingError("nodes are those of one number of steps; leave out nodes, or also")


def check_levels(settings: DistillSettings) -> None:
    nodes = settings.nodes
    if nodes and (len(nodes) != settings.steps or nodes[0] != 1.0):
        raise TrainingError(
            f"nodes {list(nodes)} must be {settings.steps} noise levels from 1 down, one a step, "
            "as [1, 0.9, 0.75, 0.5]"
        )
    if any(a <= b for a, b in pairwise((*nodes, 0.0))):
        raise TrainingError(f"nodes {list(nodes)} must fall towards 0, which is left out")
    most = max(settings.steps, *settings.also) if settings.also else settings.steps
    if settings.teacher_steps < most:
        raise TrainingError(
            f"teacher_steps {settings.teacher_steps} must be at least the student's {most}"
        )
    if settings.tau_low >= settings.tau_high:
        raise TrainingError(
            f"tau_low {settings.tau_low} must be below tau_high {settings.tau_high}"
        )


def split_strength(text: str) -> tuple[str, float]:
    """``FILE`` or ``FILE:STRENGTH``; a colon in the name of a file that is there is no sign."""
    name, colon, strength = text.rpartition(":")
    if not colon or os.path.exists(os.path.expanduser(text)):
        return text, 1.0
    try:
        value = float(strength)
    except ValueError:
        return text, 1.0
    if not name or not abs(value) <= MAX_STRENGTH:
        raise TrainingError(
            f"adapter {text!r} must be FILE or FILE:STRENGTH, a number from -{MAX_STRENGTH} to "
            f"{MAX_STRENGTH}"
        )
    return name, value


def size_of(text: str) -> tuple[int, int]:
    """Width and height of ``WIDTHxHEIGHT``."""
    found = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text)
    width, height = map(int, found.groups()) if found else (0, 0)
    if not all(n and n % UNIT == 0 for n in (width, height)):
        raise TrainingError(f"size {text!r} must be two multiples of {UNIT}, as 512x512")
    return width, height
