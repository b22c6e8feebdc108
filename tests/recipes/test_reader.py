"""The reader: what it is asked, that it can learn it, and that its file gives it back."""

import numpy as np
import torch

from recipes.mini import reader as stage
from recipes.mini.art import Bank
from recipes.mini.facts import MOST, PLACES
from recipes.mini.loop import Budget
from recipes.mini.optimisers import Optimisers
from recipes.mini.stream import Stream
from tests.recipes.conftest import KINDS


def test_labels_say_only_what_can_be_told():
    styles = ("flat", "3d")
    assert stage.labels(KINDS["alone"], styles) == [1, 0, stage.UNKNOWN]
    assert stage.labels(KINDS["three"], styles) == [1, 2, stage.UNKNOWN]
    corner = PLACES.index("bottom left")
    assert stage.labels(KINDS["at a corner"], styles) == [1, 0, corner]
    assert stage.labels(KINDS["pair"], styles) == [1, stage.UNKNOWN, stage.UNKNOWN]


def test_it_learns_to_count(config, bank: Bank, runs):
    """Three hundred views of four things are enough to begin with."""
    torch.manual_seed(0)
    reader = stage.Reader(4, ("3d",))
    optimisers = Optimisers(reader, stage.is_inside, config.reader)
    views = stage.Views(Stream(config.data, runs, "reader"), 8)
    step_fn = stage.stepper(reader, optimisers, views, config.reader, Budget(320, 8))
    losses = [step_fn(step) for step in range(40)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_the_stage_repeats_and_its_file_gives_the_reader_back(config, runs):
    stage.run(config, runs, None)
    first = stage.load(runs).state_dict()
    for path in (runs / "reader" / "state").iterdir():
        path.unlink()
    stage.run(config, runs, None)
    reader = stage.load(runs)
    assert all(torch.equal(value, first[name]) for name, value in reader.state_dict().items())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    read = reader.read(images)
    assert read["style"] == ["3d"] * 3
    assert set(read["count"]) <= set(range(1, MOST + 1))
    assert set(read["place"]) <= set(PLACES)
    assert reader.read(images[1:2])["count"] == read["count"][1:2]


def test_held_pictures_can_be_read_in_their_part(config, bank: Bank, runs):
    held = stage.held_pictures(config.data, runs, 10)
    assert {name: len(own) for name, own in held.items()} == dict.fromkeys(stage.PARTS, 10)
    assert all(p.facts.place for p in held["place"])
    assert len({p.facts.count for p in held["count"]}) > 1


def test_spoilt_pictures_repeat_and_stay_in_range():
    images = torch.rand(4, 3, 64, 64) * 2 - 1
    one, same = (stage.spoil(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, same)
    assert one.min() >= -1
    assert one.max() <= 1
    assert not torch.equal(one, images)
