"""The page about training names every setting and every choice, and its commands are understood."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from danqing.cli.app import app
from danqing.training.loss import SIGMAS, WEIGHTINGS
from danqing.training.optimise import OPTIMISERS, SCHEDULES
from danqing.training.settings import GROUPS, PRESETS, Settings

PAGE = (Path(__file__).parents[1] / "docs" / "training.md").read_text("utf-8")
CODES = set(re.findall(r"`([^`\n]+)`", PAGE))
NAMES = {field.name for field in fields(Settings)}
CHOICES = {*SIGMAS, *WEIGHTINGS, *OPTIMISERS, *SCHEDULES, *GROUPS, *PRESETS}


@pytest.mark.parametrize("name", sorted(NAMES | CHOICES))
def test_it_is_named(name: str) -> None:
    assert any(re.search(rf"(?<!\w){name}(?!\w)", code) for code in CODES)


def test_options_exist() -> None:
    train = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    known = {option for parameter in train.params for option in parameter.opts}
    lines = [line for line in PAGE.splitlines() if "danqing train" in line]
    used = {word for line in lines for word in re.findall(r"--[a-z-]+", line)}
    used |= {word for code in CODES for word in re.findall(r"^--[a-z-]+", code)}
    assert used <= known, used - known


def test_presets_are_as_told() -> None:
    rows = re.findall(r"\| `(\w+)` \| [^|]+ \| (\d+) \| ([\d,]+) \| (\S+) \|", PAGE)
    found = {name: (int(r), int(s.replace(",", "")), float(x)) for name, r, s, x in rows}
    told = {name: (own["rank"], own["steps"], own["rate"]) for name, own in PRESETS.items()}
    assert found == told
