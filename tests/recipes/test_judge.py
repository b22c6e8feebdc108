"""The judge: its views are repeatable, its training resumes, its file gives it back."""

import shutil

import numpy as np
import pytest
import torch

from recipes.mini import judge as stage
from recipes.mini.concepts import read_concepts
from recipes.mini.files import read_json
from recipes.mini.views import draw_views
from tests.recipes.conftest import DISCS, FOX, LANTERN, ROCKET

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)


def test_glyphs_are_premultiplied_and_labelled_in_the_order_of_the_concepts(bank):
    concepts = read_concepts()
    glyphs, labels = stage.tensors(bank, concepts)
    assert glyphs.shape == (len(DISCS), 4, stage.GLYPH, stage.GLYPH)
    assert [concepts[i].hex for i in labels] == [code for _, code in bank]
    assert (glyphs[:, :3] <= glyphs[:, 3:] + 1e-6).all()
    middle, rocket = stage.GLYPH // 2, [code for _, code in bank].index("1f680")
    np.testing.assert_allclose(glyphs[rocket, :3, middle, middle] * 255, DISCS["1f680"], atol=2)


def test_views_follow_their_stream_and_stay_in_range():
    glyphs = torch.rand(6, 4, 96, 96, generator=torch.Generator().manual_seed(0))
    one, same, other = (
        draw_views(glyphs, 64, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert one.shape == (6, 3, 64, 64)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.min() >= -1
    assert one.max() <= 1


def test_the_stage_trains_and_its_file_gives_the_judge_back(config, runs, pictures):
    stage.run(config, runs, None)
    facts = read_json(runs / "judge" / "judge.json")
    assert (facts["steps"], facts["classes"]) == (3, len(read_concepts()))
    assert set(facts["accuracy"]) == {"3d"}
    judge = stage.load(runs)
    logits = judge.classify(pictures)
    assert logits.shape == (5, len(read_concepts()))
    # Alone or among others, a picture gets the same judgement.
    torch.testing.assert_close(judge.classify(pictures[2:3])[0], logits[2])


def test_a_resumed_training_ends_where_an_unbroken_one_does(config, runs, pictures, monkeypatch):
    stage.run(config, runs, None)
    unbroken = stage.load(runs).classify(pictures)
    shutil.rmtree(runs / "judge")
    stage.run(config, runs, minutes=0)  # saves step 0 and stops
    assert read_json(runs / "judge" / "judge.json")["steps"] == 0
    stage.run(config, runs, None)
    assert torch.equal(stage.load(runs).classify(pictures), unbroken)


def test_accuracy_counts_right_first_guesses():
    judge, concepts = stage.Judge(4, 3), (FOX, LANTERN, ROCKET)
    judge.classify = lambda images: torch.eye(3)[[0, 1, 1]]
    renders = {"3d": [(c, np.zeros((64, 64, 3), np.uint8)) for c in concepts]}
    assert stage.accuracy(judge, concepts, renders) == {"3d": 0.6667}


def test_a_missing_judge_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the stage `judge` first"):
        stage.load(tmp_path)
