"""Everything that a training can be told, with presets, from a TOML file or from flags."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import ImageColor

from danqing.adapters.targets import Target
from danqing.adapters.write import NAMINGS, kind_of
from danqing.errors import DanqingError, TrainingError
from danqing.training import reading
from danqing.training.kinds import NUMBER, is_one, is_sound
from danqing.training.loss import SIGMAS, WEIGHTINGS
from danqing.training.memory import QUANTISED
from danqing.training.optimise import OPTIMISERS, SCHEDULES
from danqing.weights.files import dtype_named

# Groups of layers by the end of their published names. "usual" is what the published few-step
# adapters and most others change: all attention and MLP projections of both streams.
GROUPS = {
    "attention": r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)",
    "mlp": r"(img|txt)_mlp\.net\.(0\.proj|2)",
    "usual": r"(attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
    r"|(img|txt)_mlp\.net\.(0\.proj|2))",
    "image": r"(attn\.(to_[qkv]|to_out\.0)|img_mlp\.net\.(0\.proj|2))",
    "modulation": r"(img|txt)_mod\.1",
    "ends": r"(img_in|txt_in|proj_out|norm_out\.linear)",
    "all": r".*",
}
PRESETS: dict[str, dict[str, Any]] = {
    # A look: all layers, no prior, since everything may change.
    "style": {"rank": 16, "steps": 1000, "rate": 2e-4, "caption_dropout": 0.05},
    # A thing or a person: the rest of the world must stay as it is.
    "subject": {"rank": 16, "steps": 800, "rate": 1e-4, "prior": 0.3},
    # A first look at whether the data work.
    "fast": {"rank": 8, "steps": 200, "rate": 5e-4, "warm_up": 5},
}
# Settings that a resumed run may change: they do not touch what is learnt.
FREE = frozenset(
    (
        "out",
        "save_dtype",
        "device",
        "threads",
        "minutes",
        "save_every",
        "evaluate_every",
        "sample_every",
    )
) | {"prompts", "sample_steps", "sample_guidance", "sample_seeds", "few_step", "naming", "cache"}
# Compared by what they hold, wherever that lies.
NAMED = frozenset(("data", "model", "dtype"))
UNIT = 16  # pixels; sizes are multiples of it


@dataclass(frozen=True)
class Settings:
    """One training. Lists are tuples; a size is (width, height) in pixels.

    Attributes:
        data: folders, metadata files or tar shards, each ``PATH`` or ``PATH*REPEATS``, or a table
            with ``path`` and any of ``repeats``, ``weight`` (of its loss) and ``caption`` (of
            pictures without one).
        model: what ``danqing.load`` takes.
        kind: "lora", or "full" for all weights of the transformer.
        alpha: the scale is alpha / rank; as the rank by default.
        save_dtype: of the written adapter; it is always trained in float32.
        targets: groups of ``GROUPS``, or regular expressions for ends of layer names.
        size: its area is the pixel budget of a picture; the model's default size by default.
        holdout: share of the pictures that is kept apart, to measure the loss on.
        prior: weight of staying as the base is, on ``prior_prompts``.
        sigma: how noise levels are drawn: one of ``SIGMAS``.
        shift: moves levels towards the noise; "auto" as the model's own schedule does.
        batch: pictures of a pack; ``accumulate`` packs make a step.
        rate: peak learning rate.
        ema: decay of the weights' average, which is what is written; 0 is none.
        quantise: "none", or the frozen weights' type in memory.
        checkpointing: compute blocks twice, for less memory.
        save_every, evaluate_every, sample_every: steps; 0 is never.
        few_step: an adapter that is stacked on top for a second set of samples.
    """

    data: tuple[str | Mapping[str, Any], ...] = ()
    out: str = ""
    model: str = "mini"
    kind: str = "lora"
    preset: str = "style"
    seed: int = 0
    # the adapter
    rank: int = 16
    alpha: float | None = None
    rank_stabilised: bool = False
    dora: bool = False
    targets: tuple[str, ...] = ("usual",)
    naming: str = "diffusers"
    save_dtype: str = "float32"
    # the data
    size: tuple[int, int] | None = None
    upscale: bool = False
    background: str = "#ffffff"
    trigger: str = ""
    caption: str = ""
    caption_dropout: float = 0.05
    holdout: float = 0.1
    cache: str = ""
    # the loss
    sigma: str = "logit_normal"
    sigma_mean: float = 0.0
    sigma_std: float = 1.0
    shift: float | str = "auto"
    nodes: tuple[float, ...] = (1.0, 0.9, 0.75, 0.5)
    weighting: str = "none"
    prior: float = 0.0
    prior_prompts: tuple[str, ...] = (" ",)
    # the steps
    steps: int = 1000
    batch: int = 1
    accumulate: int = 1
    optimiser: str = "adamw"
    rate: float = 2e-4
    warm_up: int = 20
    schedule: str = "cosine"
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.99
    # the machine
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    quantise: str = "none"
    checkpointing: bool = False
    minutes: float | None = None
    # what is watched
    save_every: int = 100
    evaluate_every: int = 100
    sample_every: int = 200
    prompts: tuple[str, ...] = ()
    sample_seeds: tuple[int, ...] = (0, 1)
    sample_steps: int | None = None
    sample_guidance: float | None = None
    few_step: str | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return json.loads(json.dumps(asdict(self)))

    def learnt_from(self) -> dict[str, Any]:
        """The settings that decide what is learnt, for the adapter's metadata.

        Of the data only the last part of their names: where they lie is nobody's business.
        """
        plain = {name: value for name, value in self.plain().items() if name not in FREE}
        data = [Path(path_of(entry)).name for entry in self.data]
        return {**plain, "data": data, "model": self.model_name}

    @property
    def model_name(self) -> str:
        """As the world knows it: a hub id, or the last part of a folder's name."""
        folder = Path(self.model)
        return folder.resolve().name if folder.is_dir() else self.model


class Outcome(Protocol):
    """What the settings of any run say of its model and its result."""

    @property
    def model(self) -> str: ...
    @property
    def dtype(self) -> str | None: ...
    @property
    def kind(self) -> str: ...
    @property
    def data(self) -> tuple[str | Mapping[str, Any], ...]: ...
    @property
    def out(self) -> str: ...
    @property
    def naming(self) -> str: ...
    @property
    def save_dtype(self) -> str: ...
    def learnt_from(self) -> dict[str, Any]: ...


def read(path: Path | None, flags: Mapping[str, Any], *, whole: bool = True) -> Settings:
    """Settings: a preset's, above them the file's, above them the flags'.

    ``whole`` ones have all that a training needs; others serve a memory plan.

    Raises:
        TrainingError: a name that is not known, or a value that cannot be.
    """
    given = {**(reading.read_toml(path) if path else {}), **flags}
    preset = given.get("preset", "style")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise TrainingError(f"preset {preset!r} is not known; choose {', '.join(PRESETS)}")
    settings = check(make({**PRESETS[preset], **given}))
    return check_whole(settings) if whole else settings


def check_whole(settings: Settings) -> Settings:
    """The settings, if a training could begin with them."""
    if not settings.data:
        raise TrainingError("no data; give a folder of pictures with --data")
    if not settings.out:
        raise TrainingError("no place for the result; give --out mine.safetensors")
    return settings


def path_of(entry: str | Mapping[str, Any]) -> str:
    return entry if isinstance(entry, str) else str(entry.get("path", ""))


RANGES: dict[str, tuple[float, float]] = {
    "rank": (1, 4096), "steps": (1, 10**7), "batch": (1, 4096), "accumulate": (1, 4096),
    "rate": (1e-12, 10), "alpha": (1e-6, 1e6), "warm_up": (0, 10**7), "clip": (0, 1e9),
    "weight_decay": (0, 1), "ema": (0, 0.99999), "holdout": (0, 0.9), "prior": (0, 100),
    "caption_dropout": (0, 1), "sigma_std": (1e-3, 10), "sigma_mean": (-10, 10),
    "save_every": (0, 10**7), "evaluate_every": (0, 10**7), "sample_every": (0, 10**7),
    "seed": (0, 2**63 - 1),
}  # fmt: skip


def make(values: Mapping[str, Any]) -> Settings:
    return reading.make(Settings, values)


def toml(settings: Settings, folder: Path) -> str:
    """The settings that are not the preset's, for a file in this folder."""
    return reading.toml(settings, make({"preset": "", **PRESETS[settings.preset]}), folder)


def check(settings: Settings) -> Settings:
    """The settings, or an error that names the value, the limit and the remedy."""
    choices: dict[str, Sequence[str]] = {
        "kind": ("lora", "full"),
        "sigma": SIGMAS,
        "weighting": tuple(WEIGHTINGS),
        "optimiser": OPTIMISERS,
        "schedule": SCHEDULES,
        "quantise": ("none", *QUANTISED),
        "naming": tuple(NAMINGS),
    }
    reading.check_choices(settings, choices)
    reading.check_ranges(settings, RANGES)
    check_more(settings)
    if settings.kind == "full" and (settings.quantise != "none" or settings.dora):
        raise TrainingError("all weights are trained: quantise and dora are for adapters only")
    if settings.kind == "full" and settings.prior:
        raise TrainingError(
            f"prior {settings.prior!r}: of all weights no base is left to compare with; "
            "give --set prior=0"
        )
    return settings


def check_more(settings: Settings) -> None:
    """What is neither a choice nor a range alone."""
    shift, size = settings.shift, settings.size
    if shift != "auto" and (isinstance(shift, str) or not 0 < shift < 1000):
        raise TrainingError(f"shift {shift!r} must be a number from 0 to 1000, or 'auto'")
    if size is not None and (len(size) != 2 or any(n < UNIT or n % UNIT for n in size)):
        raise TrainingError(f"size {list(size)} must be two multiples of {UNIT}, as [512, 512]")
    if not settings.nodes or not all(0 < node <= 1 for node in settings.nodes):
        raise TrainingError(f"nodes {list(settings.nodes)} must be noise levels above 0, at most 1")
    for name in ("targets", "prior_prompts", "sample_seeds"):
        if not getattr(settings, name):
            raise TrainingError(f"{name} is empty; leave it out for the usual ones")
    if not all(0 <= seed < 2**63 for seed in settings.sample_seeds):
        raise TrainingError(f"sample_seeds {list(settings.sample_seeds)} must be from 0")
    for name, least in (
        ("minutes", 0),
        ("sample_steps", 1),
        ("sample_guidance", 1),
        ("threads", 1),
    ):
        value = getattr(settings, name)
        if value is not None and not least <= value < 1e9:
            raise TrainingError(f"{name} {value!r} must be at least {least}")
    for name in ("save_dtype", "dtype"):
        check_dtype(name, getattr(settings, name))
    check_colour(settings.background)
    for entry in settings.data:
        check_entry(entry)


def check_colour(background: str) -> None:
    try:
        channels = len(ImageColor.getrgb(background))
    except ValueError:
        channels = 0
    if channels != 3:
        raise TrainingError(
            f"background {background!r} is no colour without alpha; give one like #ffffff"
        )


def check_dtype(name: str, value: str | None) -> None:
    try:
        dtype_named(value) if value is not None else None
    except DanqingError as error:
        raise TrainingError(f"{name}: {error}") from error


def check_entry(entry: str | Mapping[str, Any]) -> None:
    """A place of data: a path, or a table of which nothing is ignored."""
    if isinstance(entry, str) and entry:
        return
    entry = {} if isinstance(entry, str) else entry
    kinds = {"path": str, "repeats": int, "weight": NUMBER, "caption": str}
    wrong = [name for name, value in entry.items() if not is_one(value, kinds.get(name, ()))]
    texts = [entry.get("path", ""), entry.get("caption", "")]
    if wrong or not entry.get("path") or not all(map(is_sound, texts)):
        raise TrainingError(
            f"data {dict(entry)!r} must be a path, or a table of path, repeats, weight and caption"
        )


def chosen_layers(patterns: Sequence[str], known: Mapping[str, Target]) -> list[str]:
    """The published layers that groups or patterns name."""
    found: dict[str, None] = {}
    for pattern in patterns:
        try:
            expression = re.compile(GROUPS.get(pattern, pattern))
        except re.error as error:
            raise TrainingError(
                f"target {pattern!r} is no group and no pattern: {error}"
            ) from error
        matrices = [name for name, target in known.items() if len(target.weight) == 2]
        own = [n for n in matrices if expression.fullmatch(kind_of(n)) or expression.fullmatch(n)]
        if not own:
            kinds = ", ".join(sorted({kind_of(name) for name in matrices}))
            raise TrainingError(f"target {pattern!r} names no layer; layers are {kinds}")
        found |= dict.fromkeys(own)
    return [name for name in known if name in found]
