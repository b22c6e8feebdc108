"""The glyph bank: cut to the drawing, at one scale, kept until what it is made of changes."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from recipes.mini import art
from recipes.mini.art import SIDE, Bank, bare, cut, draw_style, load_bank, rasterise
from recipes.mini.concepts import choose_concepts
from tests.recipes.conftest import DISCS, FOX


def test_cut_leaves_what_is_seen_at_one_scale():
    image = Image.new("RGBA", (100, 100))
    ImageDraw.Draw(image).rectangle([60, 10, 99, 29], fill=(0, 0, 0, 255))
    assert cut(image).size == (SIDE, SIDE // 2)
    assert cut(Image.new("RGBA", (9, 9))) is None
    assert cut(None) is None


def test_the_bank_gives_the_drawings_back(bank):
    assert sorted(bank) == sorted(("3d", code) for code in DISCS)
    assert len(bank) == len(DISCS)
    glyph = bank["3d", FOX.hex]
    assert glyph.mode == "RGBA"
    assert glyph.size == (SIDE, SIDE)
    assert glyph.getpixel((SIDE // 2, SIDE // 2)) == (*DISCS[FOX.hex], 255)
    assert ("3d", "1f408") not in bank
    assert ("flat", FOX.hex) not in bank


def test_glyphs_are_drawn_once_until_the_list_changes(config, runs, bank):
    fox, cat = choose_concepts(("fox", "cat"))
    assert draw_style("3d", config, art.read_concepts(), runs) is False
    assert draw_style("3d", config, (fox, cat), runs) is True
    again = Bank(runs / "art", ("3d",))
    assert list(again) == [("3d", fox.hex)]
    assert np.array_equal(again["3d", fox.hex], bank["3d", fox.hex])


def test_without_packages_the_stage_says_what_to_run(config, tmp_path):
    with pytest.raises(FileNotFoundError, match="run the stage `fetch` first"):
        load_bank(config, tmp_path)


def test_an_icon_is_found_by_its_alias_and_drawn():
    icons = {
        "width": 10,
        "height": 10,
        "icons": {"square": {"body": '<path fill="#f00" d="M0 0h10v10h-10z"/>'}},
        "aliases": {"box": {"parent": "square"}},
    }
    assert rasterise(icons, "box").getpixel((5, 5)) == (255, 0, 0, 255)
    assert rasterise(icons, "none") is None


def test_code_points_lose_the_variation_selector():
    assert bare("2600-fe0f") == "2600"
    assert bare("1f408-200d-2b1b") == "1f408-200d-2b1b"
