"""Drawing: as many as the facts say, where they say, whole, before the named ground."""

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from recipes.mini.art import SIDE
from recipes.mini.colours import COLOURS
from recipes.mini.compose import SHADE, SIZES_DRAWN, compose, dye, jitter, layout, recolour
from recipes.mini.facts import PLACES, RELATIONS, Facts, Ground
from recipes.mini.scenes import SCENES, paint_scene
from tests.recipes.conftest import DISCS, FOX, KINDS, ROCKET

SQUARE, WIDE, TALL = (128, 128), (192, 128), (128, 192)
SIZES = (SQUARE, WIDE, TALL, (64, 64))


def draw(bank, facts: Facts, size=SQUARE, seed: int = 0) -> np.ndarray:
    return compose(facts, bank, random.Random(seed), size)


def spots(image: np.ndarray, rgb: tuple[int, int, int]) -> list[tuple[float, float, int]]:
    """Connected areas of a colour: middle as shares of width and height, and pixels."""
    near = np.abs(image.astype(int) - rgb).sum(-1) < 60
    found, seen = [], np.zeros_like(near)
    for start in zip(*np.nonzero(near), strict=True):
        if seen[start]:
            continue
        stack, area = [start], []
        seen[start] = True
        while stack:
            y, x = stack.pop()
            area.append((y, x))
            for p in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                inside = 0 <= p[0] < near.shape[0] and 0 <= p[1] < near.shape[1]
                if inside and near[p] and not seen[p]:
                    seen[p] = True
                    stack.append(p)
        if len(area) > 12:
            y, x = np.mean(area, axis=0)
            found.append((x / near.shape[1], y / near.shape[0], len(area)))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_every_kind_is_drawn_at_every_size(bank, kind, size):
    image = draw(bank, KINDS[kind], size)
    assert image.shape == (size[1], size[0], 3)
    assert image.dtype == np.uint8
    assert image.std() > 5
    np.testing.assert_array_equal(image, draw(bank, KINDS[kind], size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_as_many_as_named_and_none_touches_another(bank, count, size):
    for seed in range(6):
        found = spots(draw(bank, Facts(FOX, "3d", count=count), size, seed), DISCS[FOX.hex])
        assert len(found) == count


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", PLACES)
def test_a_place_is_a_third_of_the_picture(bank, place, size):
    x, y, _ = spots(draw(bank, Facts(FOX, "3d", place=place), size), DISCS[FOX.hex])[0]
    words = place.split()
    assert x < 0.38 if "left" in words else x > 0.62 if "right" in words else 0.4 < x < 0.6
    assert y < 0.38 if "top" in words else y > 0.62 if "bottom" in words else 0.4 < y < 0.6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("relation", RELATIONS)
def test_the_first_of_a_pair_stands_where_it_is_said(bank, relation, size):
    image = draw(bank, Facts(FOX, "3d", other=ROCKET, relation=relation), size)
    (fx, fy, _), (rx, ry, _) = (spots(image, DISCS[c.hex])[0] for c in (FOX, ROCKET))
    apart = {"left": rx - fx, "right": fx - rx, "above": ry - fy, "below": fy - ry}
    assert apart[relation] > 0.3


def test_three_sizes_can_be_told_apart(bank):
    areas = {}
    for size in SIZES_DRAWN:
        image = draw(bank, Facts(FOX, "3d", size=size))
        areas[size] = spots(image, DISCS[FOX.hex])[0][2]
    assert areas["small"] < 0.5 * areas["medium"] < 0.25 * areas["large"]


IN_CELLS = [
    *(Facts(FOX, "3d", place=place) for place in PLACES),
    *(Facts(FOX, "3d", Ground(scene=scene)) for scene in SCENES),
    *(Facts(FOX, "3d", count=count) for count in (2, 3, 4)),
    *(Facts(FOX, "3d", other=ROCKET, relation=relation) for relation in RELATIONS),
    *(Facts(FOX, "3d", Ground(scene="snow"), other=ROCKET, relation=r) for r in RELATIONS[:2]),
]


@pytest.mark.parametrize("size", [SQUARE, WIDE, TALL])
def test_a_thing_stands_alike_on_the_grid_wherever_it_stands(bank, size):
    """The transformer's patches of 32 pixels cut it in the same way."""
    whole = layout(Facts(FOX, "3d", place="center"), SQUARE)[0]
    for facts in IN_CELLS:
        for _, scale, (x, y) in layout(facts, size):
            assert scale == whole[1], facts
            assert x % 32 == pytest.approx(0, abs=1e-6) or x % 32 == pytest.approx(32), facts
            assert y % 32 == pytest.approx(0, abs=1e-6) or y % 32 == pytest.approx(32), facts
            assert 32 <= round(x) <= size[0] - 32, facts
            assert 32 <= round(y) <= size[1] - 32, facts


def test_the_background_is_the_named_colour_up_to_a_shade(bank):
    for name in ("white", "black", "light blue"):
        image = draw(bank, Facts(FOX, "3d", Ground(name)))
        off = np.abs(image[0, 0].astype(int) - COLOURS[name].rgb)
        assert off.max() <= SHADE * 1.25 + 1
        np.testing.assert_array_equal(image[0, 0], image[-1, -1])


def test_a_gradient_goes_from_the_first_colour_down_to_the_second(bank):
    image = draw(bank, KINDS["fading"]).astype(int)
    for row, name in ((0, "yellow"), (-1, "pink")):
        assert np.abs(image[row, 0] - COLOURS[name].rgb).max() <= SHADE * 1.25 + 2


@pytest.mark.parametrize("size", SIZES)
def test_the_horizon_is_below_the_middle(size, monkeypatch):
    rows = []

    def record(rng, w, h, horizon):
        rows.append(horizon / h)
        return Image.new("RGB", (w, h))

    monkeypatch.setitem(SCENES, "snow", replace(SCENES["snow"], paint=record))
    for seed in range(50):
        paint_scene("snow", random.Random(seed), *size)
    assert 0.5 < min(rows) < max(rows) < 0.7


@pytest.mark.parametrize("name", [name for name, scene in SCENES.items() if scene.stands])
@pytest.mark.parametrize("size", [SQUARE, WIDE, TALL])
def test_what_stands_has_its_feet_on_the_land(name, size):
    """Land begins above 0.7 of the height, the street of a city at 0.82."""
    ground = Ground(scene=name)
    for facts in (
        Facts(FOX, "3d", ground),
        *(Facts(FOX, "3d", ground, other=ROCKET, relation=r) for r in ("left", "right")),
    ):
        for _, scale, (_, y) in layout(facts, size):
            assert 0.85 * size[1] < y + scale / 2 * min(size) <= size[1], facts


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("size", SIZES)
def test_a_scene_fills_the_picture_and_says_what_is_behind(name, size):
    image = paint_scene(name, random.Random(1), *size)
    assert image.size == size
    middle = np.asarray(image).reshape(-1, 3).astype(int)
    for rgb in SCENES[name].behind:
        assert (np.abs(middle - rgb).sum(-1) < 90).mean() > 0.05


def test_a_dye_keeps_the_shading_and_the_outline():
    glyph = Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGBA")
    red = np.asarray(dye(glyph, COLOURS["red"].rgb)).astype(int)
    assert red[0, 0, :3].sum() < red[SIDE // 2, 0, :3].sum() < red[-1, 0, :3].sum()
    assert (red[..., 0] > red[..., 1]).all()
    assert (red[..., 3] == 255).all()


def test_a_drawing_of_one_colour_is_black_or_as_named(bank):
    glyph = bank["3d", FOX.hex]
    flat = np.asarray(recolour(glyph, (1, 2, 3)))
    assert (flat[..., :3] == (1, 2, 3)).all()
    np.testing.assert_array_equal(flat[..., 3], np.asarray(glyph)[..., 3])


def test_only_the_named_thing_is_dyed(bank):
    image = draw(bank, replace(KINDS["pair"], tint="green"))
    assert spots(image, DISCS[FOX.hex]) == []
    assert len(spots(image, DISCS[ROCKET.hex])) == 1


def test_jitter_stays_near():
    for seed in range(50):
        off = np.abs(np.subtract(jitter(random.Random(seed), (120, 120, 120)), 120))
        assert off.max() <= SHADE * 1.25 + 1
