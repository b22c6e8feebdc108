"""A recipe in miniature: three drawn things instead of the packages."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from recipes.mini import config as recipe_config
from recipes.mini.config import Config
from recipes.mini.fetch import package_folder
from recipes.mini.styles import STYLES

TOML = Path(recipe_config.__file__).with_name("mini.toml")
# hex -> colour of a disc, off the middle of its file as real art is
DISCS = {"1f98a": (240, 120, 20), "1f34e": (222, 44, 48), "1f680": (60, 90, 200)}


@pytest.fixture(scope="session")
def full_config() -> Config:
    return recipe_config.load(TOML)


@pytest.fixture
def config(full_config: Config) -> Config:
    """Three concepts, one style, three backgrounds, half of the pairs held out."""
    data = replace(
        full_config.data,
        num_concepts=3,
        concepts=("fox", "red apple", "rocket"),
        styles=("3d",),
        backgrounds=("red", "light blue", "black"),
        plain_variants=4,
        colour_variants=3,
        holdout_percent=50,
        shard_pictures=10,
    )
    judge = replace(full_config.judge, width=4, pictures=24, batch=8, held_renders=2)
    return replace(full_config, data=data, judge=judge)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A runs folder whose art package is already fetched."""
    assets = package_folder(tmp_path, STYLES["3d"].package) / "assets"
    assets.mkdir(parents=True)
    for code, rgb in DISCS.items():
        image = Image.new("RGBA", (64, 64))
        ImageDraw.Draw(image).ellipse([4, 4, 43, 43], fill=(*rgb, 255))
        image.save(assets / f"{code}.webp", lossless=True)
    return tmp_path


@pytest.fixture
def one_thread():
    """Networks this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
