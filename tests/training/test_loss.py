import math

import numpy as np
import pytest
import torch
from torch import Tensor

from danqing.models.transformer import Transformer
from danqing.sampling import flow
from danqing.sampling.schedule import ScheduleConfig, shift_factor
from danqing.training.loss import (
    WEIGHTINGS,
    Example,
    image_losses,
    lay_out,
    sigma_sampler,
    velocities,
)
from danqing.training.trainable import Shape, Trainables
from tests import tiny

PLAIN = {"mean": 0.0, "std": 1.0, "shift": 1.0}


def example(seed: int, rows: int, columns: int, text: int, sigma: float, **more: object) -> Example:
    patches = rows * columns
    return Example(
        clean=tiny.draw(patches, 64, seed=seed),
        noise=tiny.draw(patches, 64, seed=seed + 50),
        rows=rows,
        columns=columns,
        text=tiny.draw(text, 64, seed=seed + 100),
        sigma=sigma,
        **more,  # type: ignore[arg-type]
    )


EXAMPLES = [
    example(0, 4, 4, 6, 0.9),
    example(1, 2, 6, 11, 0.3, weight=0.5),
    example(2, 5, 3, 2, 0.9, mask=torch.linspace(0, 2, 15)[:, None]),
    example(3, 1, 1, 8, 1.0),
]


def gradients(network: Transformer, packs: list[list[Example]]) -> dict[str, Tensor]:
    """Of the sum of all images' losses, however they are packed; float64."""
    trainables = Trainables(network)
    chosen = [f"transformer_blocks.{i}.attn.{n}" for i in range(3) for n in ("to_q", "add_v_proj")]
    trainables.add("a", [*chosen, "transformer_blocks.0.txt_mlp.net.2"], Shape(4, 4.0), seed=0)
    parameters = trainables.parameters("a")
    for seed, parameter in enumerate(parameters.values()):
        parameter.data = 0.1 * tiny.draw(*parameter.shape, seed=seed).double()
    for pack in packs:
        layout = lay_out(pack)
        with trainables.ride(layout, ["a"] * len(pack)):
            found = velocities(network, pack, layout)
        image_losses(found, [e.velocity for e in pack], pack).sum().backward()
    trainables.remove()
    return {
        name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None
    }


def test_a_packs_gradient_is_the_sum_of_the_single_ones() -> None:
    network = tiny.transformer()
    together = gradients(network, [EXAMPLES])
    apart = gradients(network, [[one] for one in EXAMPLES])
    assert together
    for name, gradient in together.items():
        assert (gradient - apart[name]).abs().max() <= 1e-6 * (1 + gradient.abs().max())


def test_the_loss_of_an_image_does_not_depend_on_its_pack() -> None:
    network = tiny.transformer()
    with torch.no_grad():
        found = velocities(network, EXAMPLES, lay_out(EXAMPLES))
        alone = [velocities(network, [one], lay_out([one]))[0] for one in EXAMPLES]
    for ours, theirs in zip(found, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_the_formula() -> None:
    one = EXAMPLES[1]
    torch.testing.assert_close(one.noisy, 0.7 * one.clean + 0.3 * one.noise)
    assert torch.equal(one.velocity, one.noise - one.clean)
    zero = [torch.zeros_like(e.clean) for e in EXAMPLES]
    losses = image_losses(zero, [e.velocity for e in EXAMPLES], EXAMPLES)
    expected = [e.velocity.square().mean() for e in EXAMPLES]
    expected[1] = 0.5 * expected[1]
    mask = torch.linspace(0, 2, 15)[:, None]
    expected[2] = (mask * EXAMPLES[2].velocity.square()).mean()
    torch.testing.assert_close(losses, torch.stack(expected))
    torch.testing.assert_close(flow.denoised(one.noisy, one.sigma, one.velocity), one.clean)


# ---- noise levels -----------------------------------------------------------------------------


def draws(name: str, count: int = 20_000, patches: int = 256, **options: object) -> np.ndarray:
    draw = sigma_sampler(name, {**PLAIN, **options}, ScheduleConfig())
    rng = np.random.default_rng(0)
    return np.array([draw(rng, patches) for _ in range(count)])


def test_uniform_levels() -> None:
    found = draws("uniform")
    assert 0 < found.min() < 0.001 + 1e-3
    assert found.max() <= 1
    assert np.quantile(found, (0.25, 0.5, 0.75)) == pytest.approx([0.25, 0.5, 0.75], abs=0.01)


def test_logit_normal_levels() -> None:
    found = draws("logit_normal", mean=0.5, std=2.0)
    logits = np.log(found / (1 - found))
    assert float(np.median(logits)) == pytest.approx(0.5, abs=0.05)
    assert float(logits.std()) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(("shift", "factor"), [(3.0, 3.0), ("auto", None)])
def test_shifted_levels(shift: float | str, factor: float | None) -> None:
    """The median of uniform levels, 1/2, moves to s / (1 + s)."""
    s = factor or shift_factor(4096, ScheduleConfig())
    assert s > 1
    found = draws("uniform", patches=4096, shift=shift)
    assert float(np.median(found)) == pytest.approx(s / (1 + s), abs=0.01)


def test_nodes() -> None:
    nodes = (1.0, 0.9, 0.75, 0.5)
    found = draws("nodes", count=4000, nodes=nodes)
    assert set(found) == set(nodes)
    assert min(np.mean(found == node) for node in nodes) > 0.2


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weightings_are_finite_and_positive(name: str) -> None:
    values = [WEIGHTINGS[name](sigma) for sigma in (0.001, 0.25, 0.5, 0.75, 1.0)]
    assert all(math.isfinite(value) and value > 0 for value in values)


def test_weightings_as_in_the_paper() -> None:
    assert WEIGHTINGS["sigma_sqrt"](0.5) == 4.0
    assert WEIGHTINGS["cosmap"](0.5) == pytest.approx(4 / math.pi)
    assert WEIGHTINGS["bell"](0.5) == 1.0 > WEIGHTINGS["bell"](0.1)
