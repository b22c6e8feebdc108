"""A recipe in miniature: a few drawn things instead of the packages."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from recipes.mini import art
from recipes.mini import config as recipe_config
from recipes.mini.art import Bank
from recipes.mini.concepts import choose_concepts
from recipes.mini.config import Config
from recipes.mini.facts import Facts, Ground
from recipes.mini.fetch import package_folder
from recipes.mini.styles import STYLES

TOML = Path(recipe_config.__file__).with_name("mini.toml")
# hex -> colour of a disc, off the middle of its file as real art is
DISCS = {
    "1f98a": (240, 120, 20),  # fox
    "1f3ee": (222, 44, 48),  # red lantern
    "1f680": (60, 90, 200),  # rocket
    "1f41f": (90, 160, 220),  # fish
}
FOX, LANTERN, ROCKET = choose_concepts(("fox", "red lantern", "rocket"))
# One of each kind, for whatever should hold of all captions and pictures.
KINDS = {
    "alone": Facts(FOX, "3d"),
    "on blue": Facts(FOX, "3d", Ground("blue")),
    "fading": Facts(FOX, "3d", Ground("yellow", fade="pink")),
    "dyed": Facts(ROCKET, "3d", tint="green"),
    "small": Facts(FOX, "3d", size="small"),
    "at a corner": Facts(FOX, "3d", Ground("blue"), place="bottom left"),
    "three": Facts(FOX, "3d", Ground("blue"), count=3),
    "in snow": Facts(FOX, "3d", Ground(scene="snow")),
    "pair": Facts(FOX, "3d", other=ROCKET, relation="left"),
    "pair in snow": Facts(FOX, "3d", Ground(scene="snow"), other=ROCKET, relation="right"),
    "above": Facts(FOX, "3d", Ground("black"), other=LANTERN, relation="above"),
}


@pytest.fixture(scope="session")
def full_config() -> Config:
    return recipe_config.load(TOML)


@pytest.fixture(scope="session")
def config(full_config: Config) -> Config:
    """One style; a third of the combinations held out, but none of these things in the style."""
    data = replace(full_config.data, styles=("3d",), sizes=((64, 64), (96, 64)), holdout_percent=35)
    judge = replace(full_config.judge, width=4, pictures=24, batch=8, held_renders=2)
    reader = replace(full_config.reader, width=4, pictures=24, batch=8, held_renders=5)
    return replace(full_config, data=data, judge=judge, reader=reader)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return fetched(tmp_path)


def fetched(runs: Path) -> Path:
    """A runs folder whose art package is there."""
    assets = package_folder(runs, STYLES["3d"].package) / "assets"
    assets.mkdir(parents=True)
    for code, rgb in DISCS.items():
        disc(rgb).save(assets / f"{code}.webp", lossless=True)
    return runs


@pytest.fixture
def bank(config: Config, runs: Path) -> Bank:
    return art.load_bank(config, runs)


def disc(rgb: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(image).ellipse([4, 4, 43, 43], fill=(*rgb, 255))
    return image
