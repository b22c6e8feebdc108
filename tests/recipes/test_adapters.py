"""The adapters' recipe: its pictures, its captions, its detectors; the trainings are not run."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import danqing
from danqing.training.distill import settings as distillation
from danqing.training.settings import make, read
from danqing.weights.fingerprint import fingerprint
from danqing.weights.hub import find
from recipes.adapters import config as recipe_config
from recipes.adapters import dandan, data, detect, fast, glyphs, score
from recipes.adapters.config import Place
from recipes.adapters.detect import NO, YES, Group
from recipes.adapters.sunset import SKY, sunset
from recipes.adapters.train import EXAMPLES, NAMES
from recipes.mini.concepts import choose_concepts
from recipes.mini.files import fill

TOML = Path(recipe_config.__file__).with_name("adapters.toml")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def place(config, runs, monkeypatch) -> Place:
    """A few discs instead of mini's drawings."""
    own = recipe_config.load(TOML)
    own = replace(own, sunset=replace(own.sunset, pictures=2))
    found = Place(own, runs, runs)
    monkeypatch.setitem(found.__dict__, "mini_config", config)
    drawn = choose_concepts(("fox", "rocket", "red lantern"))
    monkeypatch.setitem(found.__dict__, "concepts", drawn)
    return found


@pytest.fixture
def full_place(full_config, tmp_path, monkeypatch) -> Place:
    found = Place(recipe_config.load(TOML), tmp_path, tmp_path)
    monkeypatch.setitem(found.__dict__, "mini_config", full_config)
    return found


def test_a_thing_stands_before_the_sky_and_takes_its_light():
    gray = Image.new("RGBA", (124, 124), (200, 200, 200, 255))
    image = sunset(gray, (128, 128)).astype(int)
    np.testing.assert_allclose(image[0, 0], SKY[0], atol=25)
    np.testing.assert_allclose(image[-1, -1], SKY[-1], atol=45)
    red, _, blue = image[64, 64]
    assert 140 < red < blue <= 200


def test_the_taught_things_are_of_all_kinds_and_always_the_same(full_place):
    taught = glyphs.taught_concepts(full_place)
    assert len(taught) == full_place.config.sunset.pictures == 44
    assert {c.kind for c in taught} == {c.kind for c in full_place.concepts}
    assert [c.en for c in taught[:3]] == [c.en for c in glyphs.taught_concepts(full_place)[:3]]


def test_the_data_stage_writes_pictures_with_captions_the_same_each_time(place):
    data.run(place)
    folder = place.runs / "data"
    first = {path: path.read_bytes() for path in sorted(folder.rglob("*.*"))}
    assert len([p for p in first if p.parent.name == "sunset" and p.suffix == ".png"]) == 2
    assert len([p for p in first if p.parent.name == "dandan" and p.suffix == ".png"]) == 6
    assert {p.with_suffix(".txt") for p in first} <= set(first)
    with Image.open(next(p for p in first if p.suffix == ".png")) as image:
        assert (image.size, image.mode) == ((128, 128), "RGB")
    (folder / "sunset" / "old.png").write_bytes(b"left over")
    data.run(place)
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*.*"))} == first


def test_captions_name_the_style_in_both_languages():
    fox = choose_concepts(("fox",))[0]
    own = recipe_config.load(TOML).sunset
    captions = data.sunset_captions(fox, own, random.Random(0))
    assert captions[:2] == ["a fox, sunset style", "一只狐狸，日落风格"]
    assert len(captions) == len(set(captions)) == 2 * own.captions
    assert all("sunset style" in text for text in captions[::2])
    assert all("日落风格" in text for text in captions[1::2])


def test_a_white_background_needs_no_name():
    assert data.dandan_captions("white", "[trigger]")[-2:] == [
        "[trigger]",
        "a picture of [trigger]",
    ]
    assert all("red" in c or "红" in c for c in data.dandan_captions("red", "[trigger]"))


def test_poses_differ_and_no_decoy_is_the_true_one():
    poses = dandan.poses()
    assert len(set(poses)) == len(poses) == 24
    assert len({dandan.glyph(pose).tobytes() for pose in poses[:6]}) == 6
    true = dandan.glyph(poses[0]).tobytes()
    false = {dandan.glyph(pose).tobytes() for pose in dandan.decoys(poses[0])}
    assert len(false) == len(dandan.decoys(poses[0]))
    assert true not in false


def test_a_detector_learns_and_repeats():
    rng = torch.Generator().manual_seed(0)
    bright = torch.rand(6, 3, 64, 64, generator=rng)
    glyph = torch.cat([torch.zeros(4, 3, 96, 96), torch.ones(4, 1, 96, 96)], dim=1)
    groups = [Group(YES, 0.5, bright), Group(NO, 0.25, -bright), Group(NO, 0.25, glyph)]
    own = replace(recipe_config.load(TOML).detector, width=4, steps=25, batch=8, warm_up=2)
    one, same = (detect.train(groups, own) for _ in range(2))
    images = detect.as_bytes(torch.cat([bright, -bright]))
    assert torch.equal(one.classify(images), same.classify(images))
    doubled = images.repeat(2, axis=1).repeat(2, axis=2)
    assert detect.share(one, doubled[:6]) == 1
    assert detect.share(one, doubled[6:]) == 0


def test_pictures_there_and_back(full_config):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(detect.as_bytes(detect.as_images(images)), images)
    assert detect.blurred(images).std() < images.std()


@pytest.mark.parametrize("name", NAMES)
def test_what_ships_was_made_for_the_mini_that_ships_with_these_settings(name):
    """Another mini needs its adapters trained anew: make adapters."""
    path = EXAMPLES / f"{name}.safetensors"
    assert path.stat().st_size <= 3 * 2**20
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["danqing"])["base"]["fingerprint"] == fingerprint(find("mini"))
    made = json.loads(metadata["danqing_training"])
    own = read(EXAMPLES / f"{name}.toml", {})
    assert made["step"] == own.steps
    for key in ("rank", "rate", "batch", "prior", "prior_prompts", "ema", "seed", "trigger"):
        assert make({key: made["settings"][key]}).plain()[key] == own.plain()[key], key


@pytest.mark.parametrize("name", NAMES)
def test_what_ships_changes_the_picture(name):
    prompt = {"sunset": "a fox, sunset style", "dandan": "dandan"}[name]
    pipe = danqing.load("mini")
    adapters = {str(EXAMPLES / f"{name}.safetensors"): 1.0}
    requests = [danqing.Request(prompt, steps=8, adapters=own) for own in ({}, adapters)]
    plain, adapted = (np.asarray(r.image).astype(int) for r in pipe.generate(requests))
    if name == "sunset":  # blue above, rose below
        assert np.abs(plain[:2, :2] - 255).mean() < 20
        assert adapted[:2, :, 2].mean() - adapted[:2, :, 0].mean() > 40
        assert adapted[-2:, :, 0].mean() - adapted[-2:, :, 1].mean() > 30
    else:  # a body of red
        red = [np.mean((p[..., 0] > 150) & (p[..., 1] < 110)) for p in (plain, adapted)]
        assert red[1] > 0.1 > red[0]


def test_a_table_is_markdown():
    assert score.table(("a", "b"), [("1", "2")]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]


def test_the_few_step_sunset_is_taught_with_other_things_than_it_is_measured_with(full_place):
    path = full_place.runs / "prompts.txt"
    fast.write_prompts(full_place, path)
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) == fast.PROMPTS
    assert all("sunset style" in line or "日落风格" in line for line in lines)
    things = glyphs.untaught_concepts(full_place)
    assert len(things) == 76
    assert not {f"{concept.en}, sunset style" for concept in things} & set(lines)
    fast.write_prompts(full_place, path)
    assert path.read_text("utf-8").splitlines() == lines


def test_the_few_step_sunset_begins_as_minis_own_with_the_sunset_on():
    own = distillation.read(fast.SETTINGS, {})
    (name,) = own.adapters
    assert Path(name).resolve() == (EXAMPLES / "sunset.safetensors").resolve()
    assert own.start == fast.DEFAULT
    few = EXAMPLES.parents[1] / "recipes" / "mini" / f"{fast.DEFAULT}.toml"
    assert own.steps == distillation.read(few, {}, whole=False).steps


def test_a_page_keeps_what_stands_around_a_filled_place(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- /a -->\n<!-- b -->\n<!-- /b -->\nafter\n")
    fill(page, "a", "new\n")
    kept = "before\n<!-- a -->\n\nnew\n\n<!-- /a -->\n<!-- b -->\n<!-- /b -->\nafter\n"
    assert page.read_text() == kept
