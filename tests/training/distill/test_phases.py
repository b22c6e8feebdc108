"""What each phase asks and wants, on roles whose answers are known."""

import pytest
import torch

from danqing.sampling import flow
from danqing.sampling.guidance import guide
from danqing.training.distill import losses, phases
from danqing.training.distill.draws import MATCH
from danqing.training.distill.guards import MOST_FAKE, Figures, Guard, measure
from danqing.training.distill.roles import FAKE, STUDENT, TEACHER
from danqing.training.distill.trajectories import query
from tests import tiny
from tests.training.distill import small

pytestmark = pytest.mark.usefixtures("one_thread")


def lesson_of(tmp_path, **values):
    return small.distillation(tmp_path, small.settings(**values)).lesson


def moved(lesson, role, seed):
    for number, parameter in enumerate(lesson.student.roles.parameters(role).values()):
        with torch.no_grad():
            parameter.add_(tiny.draw(*parameter.shape, seed=seed + number), alpha=0.1)


def test_a_fresh_fake_score_has_nothing_to_say(tmp_path):
    """It is the teacher, so matching pulls nowhere, and guidance alone is left."""
    lesson = lesson_of(tmp_path)
    own = phases.paint(lesson, 7, MATCH, gradients=False)
    for matching, guiding in phases.directions(lesson, own, 7):
        assert matching.abs().max() < 1e-4
        assert guiding.abs().mean() > 1e-2


def test_without_guidance_there_is_only_matching(tmp_path):
    lesson = lesson_of(tmp_path, guidance=1.0)
    moved(lesson, FAKE, 0)
    own = phases.paint(lesson, 7, MATCH, gradients=False)
    for matching, guiding in phases.directions(lesson, own, 7):
        assert matching.abs().mean() > 1e-3
        assert guiding.abs().max() < 1e-4


def test_directions_are_those_of_one_question_after_another(tmp_path, monkeypatch):
    lesson = lesson_of(tmp_path)
    moved(lesson, FAKE, 0)
    own = phases.paint(lesson, 7, MATCH, gradients=False)
    roles, asked = lesson.student.roles, []
    ask = roles.ask
    monkeypatch.setattr(roles, "ask", lambda queries: asked.extend(queries) or ask(queries))
    found = phases.directions(lesson, own, 7)
    assert [q.role for q in asked] == [TEACHER, FAKE, TEACHER, TEACHER] * len(own.clean)
    for place, (matching, guiding) in enumerate(found):
        far, faked, near, blank = asked[4 * place : 4 * place + 4]
        assert faked.state is far.state
        assert torch.equal(blank.state, near.state)
        assert torch.equal(blank.text, small.TEXTS.blank)
        assert near.sigma <= max(own.sigmas[place], 2 * lesson.settings.tau_low)
        answers = [ask([q])[0] for q in (far, faked, near, blank)]
        clean = own.clean[place]
        wanted, fake = (flow.denoised(far.state, far.sigma, v) for v in answers[:2])
        plain = flow.denoised(near.state, near.sigma, answers[2])
        guided = flow.denoised(near.state, near.sigma, guide(*answers[2:], lesson.guidance))
        for direction, difference, scale in (
            (matching, wanted - fake, wanted),
            (guiding, guided - plain, plain),
        ):
            units = (scale - clean).abs().mean().clamp(min=losses.LEAST_SCALE)
            torch.testing.assert_close(direction, difference / units, atol=1e-4, rtol=1e-3)


def test_the_clean_pictures_of_a_node_follow_from_its_velocity(tmp_path):
    lesson = lesson_of(tmp_path, anchor=0.0)
    moved(lesson, STUDENT, 0)
    own = phases.paint(lesson, 3, MATCH, gradients=True)
    student = lesson.student
    for wish, sigma, clean in zip(own.wishes, own.sigmas, own.clean, strict=True):
        node = student.nodes.index(sigma)
        state = student.until([wish], [node])[0]
        asked = query(STUDENT, state, sigma, wish, student.texts, student.unit)
        velocity = student.roles.ask([asked])[0]
        torch.testing.assert_close(clean, state - sigma * velocity, atol=1e-5, rtol=1e-5)
        assert clean.requires_grad


@pytest.mark.parametrize(("anchor", "first"), [(0.1, 0.5), (0.0, 1.0)])
def test_an_anchored_first_step_is_not_matched(tmp_path, anchor, first):
    lesson = lesson_of(tmp_path, anchor=anchor)
    nodes = lesson.student.nodes
    seen = {
        s for step in range(12) for s in phases.paint(lesson, step, MATCH, gradients=False).sigmas
    }
    assert max(seen) == (nodes[0] if first == 1.0 else nodes[1])
    assert len(seen) == (2 if first == 1.0 else 1)


def test_the_anchor_is_the_first_segment_from_the_noise(tmp_path):
    lesson = lesson_of(tmp_path)
    step, student = 5, lesson.student
    numbers = lesson.draws.numbers(1, step, lesson.settings.batch, len(lesson.learnt))
    wanted = []
    for number in numbers:
        way, wish = lesson.trajectories[number], lesson.trajectories.wishes[number]
        asked = query(STUDENT, way[0], 1.0, wish, student.texts, student.unit)
        reached = flow.euler(way[0], student.roles.ask([asked])[0], 1.0, student.nodes[1])
        wanted.append(((reached - way[1]) / (student.nodes[1] - 1.0)).square().mean())
    torch.testing.assert_close(phases.anchor(lesson, step), torch.stack(wanted).mean())


def test_the_guard_sees_a_fake_score_that_learns_and_one_that_fails(tmp_path):
    found = small.distillation(tmp_path, small.settings(fake_rate=2e-2))
    figures = [measured(found)]
    for step in range(40):
        found._begin_fake(step)
    figures.append(measured(found))
    for parameter in found.fake_parameters.values():
        parameter.data *= -20
    figures.append(measured(found))
    fresh, learnt, spoilt = (own.fake for own in figures)
    assert fresh == pytest.approx(1.0, abs=1e-5)
    assert learnt < 0.99
    assert spoilt > MOST_FAKE
    guard = Guard(limit=1e9)
    assert [guard.sound(own) for own in figures] == [True, True, False]
    assert not guard.sound(Figures(float("nan"), 1.0, 0.0, 1.0))


def measured(found):
    return measure(found.lesson.student, found.wishes, found.teacher, 2)
