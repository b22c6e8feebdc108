"""The settings of adapters.toml: one frozen dataclass for each section, read strictly."""

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from recipes.mini import config as mini_config
from recipes.mini.concepts import Concept
from recipes.mini.config import section
from recipes.mini.plan import spread_common


@dataclass(frozen=True)
class SunsetConfig:
    """How many pictures, and what captions call the style."""

    pictures: int
    trigger_en: str
    trigger_zh: str
    captions: int
    seed: int


@dataclass(frozen=True)
class DandanConfig:
    """The pictures of the character, one for each background."""

    backgrounds: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class DetectorConfig:
    """How the detectors of style and subject are trained."""

    width: int
    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    warm_up: int
    decay: float
    decoded: int
    seed: int


@dataclass(frozen=True)
class Config:
    things: int
    sunset: SunsetConfig
    dandan: DandanConfig
    detector: DetectorConfig


@dataclass(frozen=True)
class Place:
    """The settings, the folder of this recipe's work, and that of mini's, which it builds on."""

    config: Config
    runs: Path
    mini: Path

    @cached_property
    def mini_config(self) -> mini_config.Config:
        return mini_config.load(Path(mini_config.__file__).with_name("mini.toml"))

    @cached_property
    def concepts(self) -> list[Concept]:
        """The things that the adapters are made and measured with; mini knows more."""
        return spread_common(self.config.things)


def load(path: Path) -> Config:
    with path.open("rb") as file:
        return section(tomllib.load(file), str(path), Config)
