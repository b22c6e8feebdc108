"""The phases in their order, exact resumption, and the way back from a drift."""

import math
import signal
from dataclasses import replace

import pytest
import torch

from danqing.errors import TrainingError
from danqing.training.distill import loop, phases
from danqing.training.distill.guards import Figures
from danqing.training.distill.loop import FAKE_START, IMITATION, MATCHING, TIRED, Clock, Evaluated
from danqing.training.loop import ASKED, DONE, TIME, Saved
from tests.training.distill import small

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_phases_come_in_their_order(tmp_path):
    found = small.distillation(tmp_path, small.SETTINGS)
    before = small.weights(found)
    events = list(found.run())
    phases_ = [phase for _, phase, _, _ in small.told(events)]
    assert phases_ == [IMITATION] * 4 + [FAKE_START] * 2 + [MATCHING] * 4
    assert found.ended == DONE
    assert all(math.isfinite(v) for _, _, losses, _ in small.told(events) for v in losses.values())
    after = small.weights(found)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(name in moved for name in before if "up" in name and "blocks.2." not in name)
    assert [e.step for e in events if isinstance(e, Evaluated)] == [0, 3, 4, 6, 9, 10]


def test_only_the_fake_score_learns_at_its_start(tmp_path):
    found = small.distillation(tmp_path, small.settings(imitation=0))
    before = small.weights(found)
    run = found.run()
    while found.step < 2:
        next(run)
    changed = {n for n, w in small.weights(found).items() if not torch.equal(w, before[n])}
    run.close()
    assert changed
    assert all(name.startswith("fake ") for name in changed)


def test_without_matching_the_fake_score_learns_nothing(tmp_path):
    found = small.distillation(tmp_path, small.settings(matching=0))
    assert [phase for _, phase, _, _ in small.told(list(found.run()))] == [IMITATION] * 4


@pytest.mark.parametrize("stops", [(2,), (5, 7), (1, 4, 6, 9)])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, stops):
    straight = small.distillation(tmp_path / "straight", small.SETTINGS)
    wanted = small.told(list(straight.run()))
    found = []
    for stop in (*stops, 100):
        part = small.distillation(tmp_path / "parts", small.SETTINGS)
        for event in part.run():
            found += small.told([event])
            if part.step == stop:
                part.save()
                break
    assert found == wanted
    assert vars(straight.guard).keys() == vars(part.guard).keys()
    assert straight.guard.step == part.guard.step
    assert all(torch.equal(t, part.guard.good[n]) for n, t in straight.guard.good.items())
    one, other = small.weights(straight), small.weights(part)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(
        torch.equal(straight.average.shadow[name], part.average.shadow[name])
        for name in straight.average.shadow
    )


def test_other_settings_are_refused_at_a_resumption(tmp_path):
    own = small.distillation(tmp_path, small.SETTINGS)
    next(e for e in own.run() if own.step == 1)
    own.save()
    with pytest.raises(TrainingError, match=r"rate was 0\.01 and is 0\.02"):
        small.distillation(tmp_path, small.settings(rate=2e-2))


def test_imitation_comes_nearer_to_the_teacher(tmp_path):
    own = small.settings(imitation=60, fake_start=0, matching=0, ema=0.9, evaluate_every=0)
    events = list(small.distillation(tmp_path, own).run())
    evaluated = [e.figures for e in events if isinstance(e, Evaluated)]
    assert evaluated[-1].error < 0.7 * evaluated[0].error
    assert evaluated[-1].cosine > evaluated[0].cosine


def test_a_student_that_drifts_goes_back_at_half_the_rate(tmp_path, monkeypatch):
    own = small.settings(evaluate_every=1)
    found = small.distillation(tmp_path, own)
    drifts = {8: 1e9}
    real = loop.measure

    def measured(*args):
        figures = real(*args)
        return replace(figures, drift=drifts.get(found.step, 0.0), fake=1.0)

    monkeypatch.setattr(loop, "measure", measured)
    events, kept = [], {}
    for event in found.run():
        events.append(event)
        if isinstance(event, Evaluated) and event.step == 7:
            kept = {n: t.clone() for n, t in found.guard.good.items()}
        if isinstance(event, Evaluated) and event.step == 8:
            assert event.back == 7
            live = {n: p.detach() for n, p in found._both().items()}
            assert all(torch.equal(live[n], kept[n]) for n in kept)
            assert {n.split()[0] for n in kept} == {"student", "fake"}
    assert found.guard.rollbacks == 1
    assert found.weights_of == found.step == 10
    assert found.optimisers[MATCHING].param_groups[0]["lr"] == pytest.approx(5e-4)
    assert found.ended == DONE


def test_after_three_ways_back_it_ends_and_says_why(tmp_path, monkeypatch):
    found = small.distillation(tmp_path, small.settings(evaluate_every=1, matching=50))
    begun = found.settings.before_matching
    monkeypatch.setattr(
        loop, "measure", lambda *_: Figures(1.0, 0.5, 1.0 if found.step <= begun else 1e9, 1.0)
    )
    list(found.run())
    assert found.ended == TIRED
    assert found.step == 9


def test_weights_that_were_put_back_at_the_last_step_are_not_called_its_own(tmp_path, monkeypatch):
    found = small.distillation(tmp_path, small.settings(evaluate_every=1))
    real = loop.measure
    total = found.settings.total

    def measured(*args):
        return replace(real(*args), drift=1e9 if found.step == total else 0.0, fake=1.0)

    monkeypatch.setattr(loop, "measure", measured)
    list(found.run())
    assert (found.ended, found.step, found.weights_of) == (DONE, total, total - 1)
    again = small.distillation(tmp_path, found.settings)
    assert (again.step, again.weights_of) == (total, total - 1)


def test_the_third_way_back_is_told_at_the_last_step_too(tmp_path, monkeypatch):
    own = small.settings(evaluate_every=1, imitation=1, fake_start=1, matching=3)
    found = small.distillation(tmp_path, own)
    monkeypatch.setattr(
        loop, "measure", lambda *_: Figures(1.0, 0.5, 1.0 if found.step <= 2 else 1e9, 1.0)
    )
    list(found.run())
    assert (found.ended, found.step, found.weights_of) == (TIRED, own.total, 2)


def test_stopped_before_the_first_step_it_leaves_a_state(tmp_path):
    own, twin = tmp_path / "own", tmp_path / "twin"
    found = small.distillation(own, small.SETTINGS)
    events = found.run()
    next(events)  # the evaluation of step 0
    signal.raise_signal(signal.SIGTERM)
    assert [type(event) for event in events] == [Saved]
    assert (found.ended, found.step) == (ASKED, 0)
    again, whole = small.distillation(own, small.SETTINGS), small.distillation(twin, small.SETTINGS)
    list(again.run())
    list(whole.run())
    assert all(torch.equal(p, whole.parameters[n]) for n, p in again.parameters.items())


def test_a_gradient_that_is_no_number_stops_before_it_spoils_anything(tmp_path, monkeypatch):
    found = small.distillation(tmp_path, small.SETTINGS)
    real = phases.imitate

    def spoilt(lesson, step):
        return real(lesson, step) * (float("nan") if step == 2 else 1)

    monkeypatch.setattr(phases, "imitate", spoilt)
    with pytest.raises(TrainingError, match="gradient of the student is nan at step 3"):
        list(found.run())
    assert all(bool(torch.isfinite(p).all()) for p in found.parameters.values())


def test_minutes_end_a_run(tmp_path):
    found = small.distillation(tmp_path, small.SETTINGS)
    found.clock = Clock(1e-9)
    list(found.run())
    assert found.ended == TIME
    assert found.step == 1


def test_a_student_that_comes_nearer_is_let_on_however_far_off_it_is(tmp_path, monkeypatch):
    found = small.distillation(tmp_path, small.settings(evaluate_every=1, imitation=0, limit=0.5))
    drifts = iter([9.0, 9.0, 9.0, 8.0, 7.0, 6.0, 6.5, 5.0])
    monkeypatch.setattr(loop, "measure", lambda *_: Figures(1.0, 0.5, next(drifts, 5.0), 1.0))
    back = [e.step for e in found.run() if isinstance(e, Evaluated) and e.back is not None]
    assert back == [6]
    assert found.guard.rollbacks == 1
