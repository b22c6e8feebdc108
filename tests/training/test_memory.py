import pytest
import torch

from danqing.errors import TrainingError
from danqing.models.transformer import Transformer
from danqing.training.loss import image_losses, lay_out, velocities
from danqing.training.memory import (
    Checkpointed,
    Quantised,
    checkpoint_blocks,
    quantise,
    quantise_blocks,
    whole,
)
from danqing.training.trainable import Shape, Trainables
from tests import tiny
from tests.training.test_loss import EXAMPLES

LAYERS = ["transformer_blocks.0.attn.to_q", "transformer_blocks.2.txt_mlp.net.0.proj"]


def learnt(network: Transformer, how: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of an adapter, with the network arranged in this way."""
    trainables = Trainables(network)
    trainables.add("a", LAYERS, Shape(4, 4.0), seed=0)
    for seed, parameter in enumerate(trainables.parameters("a").values()):
        parameter.data = 0.1 * tiny.draw(*parameter.shape, seed=seed)
    if how in ("int8", "float8"):
        quantise_blocks(network, how)
    if how == "checkpointed":
        checkpoint_blocks(network)
        assert isinstance(network.blocks[0], Checkpointed)
    layout = lay_out(EXAMPLES)
    with trainables.ride(layout, ["a"] * len(EXAMPLES)):
        found = velocities(network, EXAMPLES, layout)
        loss = image_losses(found, [e.velocity for e in EXAMPLES], EXAMPLES).mean()
        loss.backward()
    grads = {n: p.grad for n, p in trainables.parameters("a").items() if p.grad is not None}
    return float(loss.detach()), grads


def test_checkpointed_blocks_learn_the_same_bit_for_bit() -> None:
    loss, grads = learnt(tiny.transformer(), "plain")
    other, others = learnt(tiny.transformer(), "checkpointed")
    assert other == loss
    # The text output of the last block reaches nothing, so nothing of it is learnt.
    assert (
        {name.rsplit(".", 1)[0] for name in grads}
        == {LAYERS[0]}
        == {name.rsplit(".", 1)[0] for name in others}
    )
    assert all(torch.equal(grads[name], others[name]) for name in grads)


@pytest.mark.parametrize(("kind", "near"), [("int8", 0.02), ("float8", 0.08)])
def test_eight_bits_come_near(kind: str, near: float) -> None:
    loss, grads = learnt(tiny.transformer(), "plain")
    other, others = learnt(tiny.transformer(), kind)
    assert other == pytest.approx(loss, rel=near)
    assert other != loss
    for name, grad in grads.items():
        assert (others[name] - grad).norm() < 4 * near * grad.norm() + 1e-6


@pytest.mark.parametrize(("kind", "step"), [("int8", 1 / 254), ("float8", 1 / 16)])
def test_rounding_is_no_larger_than_the_type_allows(kind: str, step: float) -> None:
    weight = tiny.draw(40, 64) * torch.logspace(-3, 3, 40)[:, None]
    q, scale = quantise(weight, kind)
    assert q.element_size() == 1
    apart = (whole(q, scale, torch.float32) - weight).abs()
    largest = weight.abs().amax(dim=1, keepdim=True)
    allowed = step * (largest if kind == "int8" else weight.abs() + largest / 448)
    assert bool((apart <= allowed * 1.001).all())


def test_a_row_of_zeros_stays_zero() -> None:
    q, scale = quantise(torch.zeros(2, 8), "int8")
    assert not whole(q, scale, torch.bfloat16).any()


def test_the_bytes_are_a_quarter() -> None:
    network = tiny.transformer()
    before = sum(p.numel() * 4 for n, p in network.named_parameters() if n.startswith("blocks."))
    count = quantise_blocks(network, "int8")
    kept = [*network.named_parameters(), *network.named_buffers()]
    own = [t for n, t in kept if n.startswith("blocks.") and not t.is_meta]
    after = sum(t.numel() * t.element_size() for t in own)
    assert count == 3 * 2 * 5
    assert after < 0.3 * before
    assert isinstance(network.blocks[0].img.qkv, Quantised)


def test_an_unknown_type() -> None:
    with pytest.raises(
        TrainingError, match="quantisation 'int4' is not known; choose int8, float8"
    ):
        quantise_blocks(tiny.transformer(), "int4")
