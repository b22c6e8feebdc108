"""Intervals: of means as everybody knows them, of blocks as the jackknife gives them."""

import numpy as np
import pytest
import torch

from recipes.mini import score, score_distill
from recipes.mini.score_distill import both, correct, detail, jackknife_error


def test_the_jackknife_gives_a_means_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=400)
    rest = [np.delete(values, [n]).mean() for n in range(400)]
    assert jackknife_error(rest) == pytest.approx(values.std(ddof=1) / 20, rel=1e-3)
    blocks = np.array_split(np.arange(400), 20)
    rest = [np.delete(values, block).mean() for block in blocks]
    assert jackknife_error(rest) == pytest.approx(values.std(ddof=1) / 20, rel=0.4)


def test_its_intervals_hold_the_distance_as_often_as_they_say() -> None:
    """Of two sets from one distribution of known distance, drawn many times."""
    rng, inside = np.random.default_rng(1), 0
    truth = 4.0  # between centres that are 1 apart in each of 4 axes, with equal covariance
    for _ in range(60):
        one, two = (torch.from_numpy(rng.normal(size=(300, 4)) + c) for c in (0.0, 1.0))
        places = np.array_split(rng.permutation(300), 20)
        rest = [np.setdiff1d(np.arange(300), own) for own in places]
        error = jackknife_error([score.frechet(one[at], two[at]) for at in rest])
        found = score.frechet(one, two)
        inside += abs(found - truth) < score_distill.WIDTH * error
    assert 0.85 <= inside / 60 <= 1.0


def test_a_fact_comes_with_its_prompts_in_both_languages() -> None:
    assert both(np.array([2, 0])).tolist() == [4, 5, 0, 1]


def test_only_what_was_asked_for_counts() -> None:
    found = {"common": ["a", None, "c"], "all": [None, "x", "y"]}
    right = {"common": ["a", None, None], "all": [None, "b", None]}
    marks = correct(found, right, ("common", "all"))
    np.testing.assert_array_equal(marks, [1.0, 0.0, np.nan])


def test_detail_falls_with_blur() -> None:
    sharp = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    soft = (sharp + np.roll(sharp, 1, axis=1) + np.roll(sharp, 1, axis=2)) / 3
    assert (detail(soft) < 0.7 * detail(sharp)).all()
