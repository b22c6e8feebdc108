"""The recipe's settings: one TOML, one frozen dataclass for each section.

A new section is a dataclass and a field of ``Config``. Keys that no dataclass knows, and keys that
are missing, are errors: a setting that is silently ignored would make another model.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


class ConfigError(ValueError):
    """A TOML that does not describe a recipe."""


@dataclass(frozen=True)
class Package:
    """An npm package, pinned: ``integrity`` is the registry's sha512 of the tarball."""

    version: str
    integrity: str


@dataclass(frozen=True)
class DataConfig:
    """Which pictures are drawn. ``sizes``: width and height of the larger ones.

    ``things``: how many of the common things, spread over their list, for a study; 0: everything.
    """

    styles: tuple[str, ...]
    things: int
    sizes: tuple[tuple[int, int], ...]
    holdout_percent: int
    seed: int


@dataclass(frozen=True)
class TokenizerConfig:
    """``words`` are kept beside the captions': for pictures that later editions will show."""

    package: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class JudgeConfig:
    """A classifier that scores pictures; ``seed`` is apart from the generator's. ``held_renders``:
    of each kind, for its own accuracy."""

    width: int
    pictures: int
    batch: int
    muon_rate: float
    adam_rate: float
    warm_up: int
    decay: float
    held_renders: int
    seed: int


@dataclass(frozen=True)
class StartStage:
    """``model``: a name that ``danqing.load`` takes, to go on from. ``vae``: with its VAE, too, not
    with the one that this recipe has trained."""

    model: str
    vae: bool


@dataclass(frozen=True)
class VAEStage:
    """The VAE and its training; ``decay``: the last share of steps, with a falling rate.

    It sees more ``styles`` than the base, so that adapters can teach some of them. It grows from
    one without the last of ``dim_mult`` and with ``outer_z_dim``, which sees ``outer_pictures``.
    At last its decoder alone sees ``decoder_pictures``: the latents stay what they are.
    """

    styles: tuple[str, ...]
    base_dim: int
    dim_mult: tuple[int, ...]
    z_dim: int
    num_res_blocks: int
    outer_z_dim: int
    outer_pictures: int
    pictures: int
    decoder_pictures: int
    batch: int
    muon_rate: float
    adam_rate: float
    warm_up: int
    decay: float
    ema: float
    kl_weight: float
    gradient_weight: float
    seed: int


@dataclass(frozen=True)
class TextStage:
    """How the text encoder learns to read; ``captions``, half of them in each language."""

    captions: int
    batch: int
    muon_rate: float
    adam_rate: float
    warm_up: int
    decay: float
    ema: float
    seed: int


@dataclass(frozen=True)
class BaseStage:
    """Text encoder and transformer, and their training.

    ``batch`` counts pictures of the first size; larger ones come in fewer, for about as many
    pixels. ``views``: how often each picture is shown, with other captions and noise. Shares of the
    steps, from the first one on: ``square`` with the first size only, ``alone`` with single things
    in the middle only, ``calming`` with a shift of the sigmas to the noise that goes from
    ``first_shift`` to ``shift``. ``even``: the share of the loss's weight that all channels of the
    latents get alike; the rest goes by what each changes in the pixels (``worth``).
    ``text_share``: of the rates, for the text encoder. Muon's steps are as large as its rate says,
    however small the gradient is, and what the encoder has read would be lost in them while the
    transformer cannot use it yet. ``dropout``: the share of blank captions; ``nameless``: of those
    with style and background alone. ``floor``: the least noise before a thing that is seen in one
    style alone. Styles differ in what comes last, so how to finish is learnt from the other things,
    and a thing can be painted in the style that was held out.
    """

    width: int
    heads: int
    layers: int
    axes: tuple[int, int, int]
    text_width: int
    text_inner: int
    text_layers: int
    text_heads: int
    text_groups: int
    pictures: int
    batch: int
    views: int
    square: float
    alone: float
    calming: float
    muon_rate: float
    adam_rate: float
    text_share: float
    warm_up: int
    decay: float
    ema: float
    dropout: float
    nameless: float
    first_shift: float
    shift: float
    even: float
    floor: float
    seed: int
    sheet_prompts: tuple[str, ...]

    def share(self, step: int) -> float:
        """Of the whole training that is behind it."""
        return step * self.batch / self.pictures

    def shift_at(self, step: int) -> float:
        """Level factors from one shift to the other."""
        way = min(1.0, self.share(step) / self.calming) if self.calming else 1.0
        return self.first_shift ** (1 - way) * self.shift**way


@dataclass(frozen=True)
class Config:
    packages: dict[str, Package]
    data: DataConfig
    tokenizer: TokenizerConfig
    start: StartStage
    vae: VAEStage
    text: TextStage
    base: BaseStage
    judge: JudgeConfig
    reader: JudgeConfig


def load(path: Path, changes: Sequence[str] = ()) -> Config:
    """``changes``: "section.key=value" in TOML's writing, each in place of the file's value."""
    with path.open("rb") as file:
        table = tomllib.load(file)
    for change in changes:
        replace(table, change)
    return section(table, str(path), Config)


def replace(table: dict[str, Any], change: str) -> None:
    try:
        ((name, keys),) = tomllib.loads(change).items()
        ((key, value),) = keys.items()
        table[name][key]  # known
    except (ValueError, AttributeError, KeyError, TypeError, tomllib.TOMLDecodeError):
        raise ConfigError(f"--set {change}: write SECTION.KEY=VALUE of a known key") from None
    table[name][key] = value


def section(table: dict[str, Any], name: str, cls: type[T]) -> T:
    """A dataclass from a TOML table, strictly: every key known, none missing."""
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ConfigError(f"{name}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    missing = [k for k, f in known.items() if k not in table and f.default is MISSING]
    if missing:
        raise ConfigError(f"{name}: key {missing[0]!r} is missing; add it")
    hints = get_type_hints(cls)
    return cls(**{k: _value(v, f"{name}: {k}", hints[k]) for k, v in table.items()})


def _value(value: Any, name: str, hint: Any) -> Any:
    if get_origin(hint) is dict:
        return {k: section(v, f"{name}.{k}", get_args(hint)[1]) for k, v in value.items()}
    if is_dataclass(hint):
        return section(value, name, cast(type[Any], hint))
    expected: type = list if get_origin(hint) is tuple else hint
    # TOML writes 1 for 1.0, and Python counts booleans among the integers.
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise ConfigError(f"{name} is {value!r}; write a {expected.__name__}")
    return frozen(value)


def frozen(value: Any) -> Any:
    return tuple(map(frozen, value)) if isinstance(value, list) else value
