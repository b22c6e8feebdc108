import torch

from danqing.sampling.noise import draw

SHAPE = (16, 8, 6)


def test_a_seed_is_a_picture() -> None:
    assert torch.equal(draw(7, SHAPE), draw(7, SHAPE))
    assert not torch.equal(draw(7, SHAPE), draw(8, SHAPE))


def test_other_draws_and_the_global_seed_change_nothing() -> None:
    first = draw(7, SHAPE)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.randn(5)
        draw(3, SHAPE)
        assert torch.equal(draw(7, SHAPE), first)


def test_it_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    draw(7, SHAPE)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_it_is_standard_normal_in_float32_on_the_cpu() -> None:
    noise = draw(0, (100_000,))
    assert (noise.dtype, noise.device.type) == (torch.float32, "cpu")
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_the_largest_seed_works() -> None:
    assert draw(2**63 - 1, SHAPE).isfinite().all()
    assert not torch.equal(draw(2**63 - 1, SHAPE), draw(2**31 - 1, SHAPE))
