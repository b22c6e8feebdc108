"""The TOML is read strictly."""

import re

import pytest

from recipes.mini.concepts import choose_concepts
from recipes.mini.config import ConfigError, JudgeConfig, Package, section
from recipes.mini.fetch import needed
from recipes.mini.styles import STYLES

PINNED = {"version": "1.0.0", "integrity": "sha512-x"}


def test_the_shipped_file_describes_the_first_edition(full_config):
    data = full_config.data
    assert len(choose_concepts(data.concepts, data.num_concepts)) == 120
    assert data.styles == ("flat", "3d")
    assert set(needed(full_config)) <= set(full_config.packages)


def test_every_style_can_be_turned_on_by_the_file_alone(full_config):
    for style in STYLES.values():
        assert {style.package, style.slugs or style.package} <= set(full_config.packages)
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
    table = {**vars(full_config.judge), "learning_rate": 1}
    assert section(table, "judge", JudgeConfig).learning_rate == 1.0
    with pytest.raises(ConfigError, match="judge: batch is True"):
        section({**table, "batch": True}, "judge", JudgeConfig)


def test_concepts_that_are_unknown_or_miscounted_are_named():
    with pytest.raises(ValueError, match="concept 'foxx' is not in"):
        choose_concepts(("fox", "foxx"), 2)
    with pytest.raises(ValueError, match="1 different concepts are named, num_concepts is 2"):
        choose_concepts(("fox", "fox"), 2)
