"""The TOML is read strictly."""

import re

import pytest

from recipes.mini.config import ConfigError, JudgeConfig, Package, load, section
from recipes.mini.fetch import needed
from recipes.mini.styles import STYLES
from tests.recipes.conftest import TOML

PINNED = {"version": "1.0.0", "integrity": "sha512-x"}


def test_the_shipped_file_describes_the_second_edition(full_config):
    data = full_config.data
    assert data.styles == ("flat", "3d")
    assert full_config.vae.styles == tuple(STYLES)
    assert data.sizes == ((128, 128), (192, 128), (128, 192))
    assert data.holdout_percent == 10
    assert set(needed(full_config)) <= set(full_config.packages)


def test_labels_of_styles_come_in_pairs():
    for style in STYLES.values():
        assert len(style.en) == len(style.zh) == 3


def test_pins_are_sha512(full_config):
    for package in full_config.packages.values():
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", package.integrity)


def test_section_reads_a_table():
    assert section(PINNED, "p", Package) == Package("1.0.0", "sha512-x")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({**PINNED, "verison": "2"}, "p: unknown key 'verison'"),
        ({"version": "1.0.0"}, "p: key 'integrity' is missing"),
        ({**PINNED, "version": 1.0}, "p: version is 1.0; write a str"),
    ],
)
def test_a_wrong_table_is_an_error_that_names_the_key(table, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        section(table, "p", Package)


def test_a_whole_number_may_stand_for_a_float_but_not_a_boolean_for_an_integer(full_config):
    table = {**vars(full_config.judge), "adam_rate": 1}
    assert section(table, "judge", JudgeConfig).adam_rate == 1.0
    with pytest.raises(ConfigError, match="judge: batch is True"):
        section({**table, "batch": True}, "judge", JudgeConfig)


def test_a_setting_can_be_changed_for_a_study() -> None:
    changed = load(TOML, ["base.batch=48", "data.styles=['3d']"])
    assert changed.base.batch == 48
    assert changed.data.styles == ("3d",)
    assert changed.vae == load(TOML).vae


@pytest.mark.parametrize("change", ["base.bach=1", "bass.batch=1", "base=1", "base.batch=", "x"])
def test_an_unknown_change_is_an_error(change: str) -> None:
    with pytest.raises(ConfigError, match=r"--set .*SECTION.KEY=VALUE"):
        load(TOML, [change])
