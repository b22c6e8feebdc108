"""Three roles in one pack answer as each does alone, and nobody touches the base."""

import pytest
import torch

from danqing.adapters.adapter import Adapter, Update
from danqing.errors import TrainingError
from danqing.training.distill.roles import FAKE, STUDENT, TEACHER, Query
from danqing.training.memory import checkpoint_blocks
from tests import tiny
from tests.training.distill import small

pytestmark = pytest.mark.usefixtures("one_thread")


def query(role: str | None, seed: int, rows: int = 4, columns: int = 4, sigma: float = 0.7):
    state = tiny.draw(rows * columns, 64, seed=seed)
    return Query(role, state, sigma, small.text(small.PROMPTS[seed % 7]), rows, columns)


@pytest.fixture
def roles():
    found = small.roles(small.SETTINGS)
    for role in (STUDENT, FAKE):
        for number, parameter in enumerate(found.parameters(role).values()):
            with torch.no_grad():
                parameter.add_(tiny.draw(*parameter.shape, seed=number + len(role)), alpha=0.1)
    return found


def test_a_pack_of_roles_answers_as_each_alone(roles):
    asked = [
        query(STUDENT, 0),
        query(TEACHER, 1, 6, 4, 0.3),
        query(FAKE, 2),
        query(STUDENT, 3, sigma=0.1),
        query(TEACHER, 0),
        query(FAKE, 0),
    ]
    together = roles.ask(asked)
    for one, found in zip(asked, together, strict=True):
        torch.testing.assert_close(found, roles.ask([one])[0], atol=1e-5, rtol=1e-5)
    assert (together[0] - together[4]).abs().max() > 1e-3  # the roles differ
    assert (together[5] - together[4]).abs().max() > 1e-3


def test_the_teacher_is_the_base_to_the_bit(roles):
    asked = [query(TEACHER, 1)]
    plain = small.roles(small.SETTINGS)
    plain.trainables.remove()
    assert torch.equal(roles.ask(asked)[0], plain.ask(asked)[0])


def test_blocks_computed_twice_give_the_same_gradients(roles):
    """The second time is long after the pack was asked."""
    asked = [query(STUDENT, 0), query(FAKE, 2), query(TEACHER, 1), query(STUDENT, 3)]

    def gradients():
        answers = roles.ask(asked)
        roles.ask([query(TEACHER, 5)])
        torch.cat(answers).square().mean().backward()
        own = {**roles.parameters(STUDENT), **{f"fake {n}": p for n, p in fakes.items()}}
        found = {name: p.grad for name, p in own.items() if p.grad is not None}
        for p in own.values():
            p.grad = None
        return found

    fakes = roles.parameters(FAKE)
    plain = gradients()
    checkpoint_blocks(roles.network, roles.trainables.again)
    again = gradients()
    assert any(g.abs().max() > 1e-4 for g in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-7, rtol=1e-5)


def test_fresh_roles_are_the_teacher():
    fresh = small.roles(small.SETTINGS)
    student, fake, teacher = fresh.ask([query(r, 1) for r in (STUDENT, FAKE, TEACHER)])
    torch.testing.assert_close(student, teacher, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(fake, teacher, atol=1e-6, rtol=1e-6)


def test_gradients_reach_only_the_role_that_was_asked(roles):
    roles.ask([query(STUDENT, 1), query(TEACHER, 2)])[0].square().sum().backward()
    idle = {name for name, p in roles.parameters(STUDENT).items() if p.grad is None}
    # The text stream of the last block gives keys and values, and no more.
    assert all("blocks.2." in name and ("add_" in name or "txt_" in name) for name in idle)
    assert all(p.grad is None for p in roles.parameters(FAKE).values())
    others = {id(p) for role in (STUDENT, FAKE) for p in roles.parameters(role).values()}
    assert not any(p.requires_grad for p in roles.network.parameters() if id(p) not in others)


def test_roles_that_change_the_modulation_ride_apart():
    own = small.settings(targets=("all",))
    roles = small.roles(own)
    with torch.no_grad():
        for parameter in roles.parameters(STUDENT).values():
            parameter.add_(0.02)
    asked = [query(STUDENT, 0), query(TEACHER, 0)]
    student, teacher = roles.ask(asked)
    torch.testing.assert_close(student, roles.ask(asked[:1])[0])
    torch.testing.assert_close(teacher, roles.ask(asked[1:])[0])


def test_guidance_of_one_is_the_plain_answer_up_to_rounding(roles):
    guided, plain = roles.guided([query(TEACHER, 1)], small.TEXTS.blank, 1.0)
    torch.testing.assert_close(guided[0], plain[0], atol=1e-4, rtol=1e-4)


def test_a_student_begins_as_a_given_adapter(roles):
    given = roles.adapter(STUDENT)
    fresh = small.roles(small.SETTINGS)
    fresh.start_from(given)
    asked = [query(STUDENT, 2)]
    torch.testing.assert_close(fresh.ask(asked)[0], roles.ask(asked)[0])


def test_an_adapter_of_another_rank_or_other_layers_is_refused():
    given = small.roles(small.settings(rank=2)).adapter(STUDENT)
    roles = small.roles(small.SETTINGS)
    with pytest.raises(TrainingError, match=r"another kind or rank .* give its rank with --rank"):
        roles.start_from(given)
    fewer: dict[str, Update] = dict(list(given.updates.items())[1:])
    with pytest.raises(TrainingError, match="differs in its layers"):
        roles.start_from(Adapter(fewer))
