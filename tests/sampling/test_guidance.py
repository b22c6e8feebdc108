import pytest
import torch

from danqing.sampling.guidance import guide
from tests import tiny

CONDITIONAL, UNCONDITIONAL = tiny.draw(7, 64), tiny.draw(7, 64, seed=1)


@pytest.mark.parametrize("scale", [1.5, 4.0, 30.0])
def test_each_token_keeps_the_conditionals_norm(scale: float) -> None:
    found = guide(CONDITIONAL, UNCONDITIONAL, scale)
    torch.testing.assert_close(found.norm(dim=-1), CONDITIONAL.norm(dim=-1))


@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_the_direction_is_that_of_plain_guidance(scale: float) -> None:
    plain = UNCONDITIONAL + scale * (CONDITIONAL - UNCONDITIONAL)
    cosine = torch.cosine_similarity(guide(CONDITIONAL, UNCONDITIONAL, scale), plain, dim=-1)
    torch.testing.assert_close(cosine, torch.ones(7))


def test_scale_one_is_the_conditional_but_for_rounding() -> None:
    torch.testing.assert_close(guide(CONDITIONAL, UNCONDITIONAL, 1.0), CONDITIONAL)


def test_equal_branches_need_no_guidance() -> None:
    torch.testing.assert_close(guide(CONDITIONAL, CONDITIONAL, 9.0), CONDITIONAL)


def test_a_zero_vector_stays_zero() -> None:
    """The reference divides 0 by 0 here."""
    zero = torch.zeros(2, 64)
    assert torch.equal(guide(zero, zero, 4.0), zero)
    # Guidance leads to zero although the conditional has a norm.
    assert torch.equal(guide(CONDITIONAL, 2 * CONDITIONAL, 2.0), torch.zeros(7, 64))


def test_a_zero_conditional_gives_zero() -> None:
    assert torch.equal(guide(torch.zeros(7, 64), UNCONDITIONAL, 4.0).abs(), torch.zeros(7, 64))


def test_tokens_do_not_meet() -> None:
    other = torch.cat([UNCONDITIONAL[:3], UNCONDITIONAL[3:] * 5])
    found = guide(CONDITIONAL, other, 4.0)
    assert torch.equal(found[:3], guide(CONDITIONAL, UNCONDITIONAL, 4.0)[:3])
    assert torch.equal(found[4:5], guide(CONDITIONAL[4:5], other[4:5], 4.0))
