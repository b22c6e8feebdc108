from collections import Counter

import torch

from danqing.sampling.schedule import ScheduleConfig
from danqing.training.loss import Example, sigma_sampler
from danqing.training.stock import Stock, Take
from tests.training.small import Shelf, pictures

UNIFORM = sigma_sampler("uniform", {"mean": 0.0, "std": 1.0, "shift": 1.0}, ScheduleConfig())


def stock(seed: int = 0, count: int = 5) -> Stock:
    return Stock(pictures(count), Shelf(), Take(UNIFORM, 0.2, None, seed))


def same(a: Example, b: Example) -> bool:
    tensors = torch.equal(a.clean, b.clean) and torch.equal(a.noise, b.noise)
    return tensors and a.sigma == b.sigma and torch.equal(a.text, b.text)


def test_each_epoch_has_every_picture_as_often_as_it_is_repeated() -> None:
    own = stock()
    assert own.epoch_length == 7  # five pictures, two of them twice
    seen = [p.record.origin for step in range(14) for p in own.chosen(step, 1)]
    expected = Counter({"0": 1, "1": 2, "2": 1, "3": 2, "4": 1})
    assert Counter(seen[:7]) == Counter(seen[7:]) == expected
    assert seen[:7] != seen[7:]


def test_batches_are_cut_from_the_epochs_laid_end_to_end() -> None:
    singles = [stock().chosen(step, 1)[0].record.origin for step in range(12)]
    batches = [p.record.origin for step in range(4) for p in stock().chosen(step, 3)]
    assert singles == batches


def test_a_step_does_not_depend_on_the_ones_before() -> None:
    own = stock()
    for step in range(9):
        own.examples(step, 2)
    again = stock()
    assert all(map(same, own.examples(9, 2), again.examples(9, 2)))


def test_every_draw_is_another() -> None:
    own = stock()
    found = [e for step in range(20) for e in own.examples(step, 2)]
    assert len({e.sigma for e in found}) == 40
    assert len({float(e.noise[0, 0]) for e in found}) == 40
    assert not same(own.examples(0, 1)[0], stock(seed=1).examples(0, 1)[0])


def test_clean_latents_are_drawn_anew_from_the_posterior() -> None:
    own = stock(count=1)
    first, second = own.examples(0, 1)[0], own.examples(1, 1)[0]
    apart = (first.clean - second.clean).std()
    assert 0.1 < float(apart) < 0.3  # the posterior's deviation is exp(-2) = 0.135


def test_fixed_examples_are_the_same_at_every_call() -> None:
    own = stock()
    for row, again in zip(own.fixed((0.2, 0.8)), own.fixed((0.2, 0.8)), strict=True):
        assert [e.sigma for e in row] == [0.2, 0.8]
        assert all(map(same, row, again))
