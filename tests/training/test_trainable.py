import pytest
import torch
from torch import Tensor

from danqing.adapters.adapter import change
from danqing.adapters.inject import Injection, bake, bind
from danqing.adapters.targets import targets
from danqing.models.layout import Layout, Segment
from danqing.models.transformer import Transformer
from danqing.training.trainable import Pair, Shape, Trainables
from tests import tiny

LAYOUT = Layout((Segment(4, 4, 7), Segment(2, 6, 5), Segment(3, 3, 9)))
PATCHES, TEXT = tiny.draw(16 + 12 + 9, 64), tiny.draw(7 + 5 + 9, 64, seed=1)
SHAPES = {
    "lora": Shape(4, 8.0),
    "rank-stabilised": Shape(4, 8.0, rank_stabilised=True),
    "dora": Shape(4, 8.0, dora=True),
}


@pytest.fixture
def network() -> Transformer:
    return tiny.transformer()


def layers(network: Transformer) -> list[str]:
    return [name for name, target in targets(network).items() if len(target.weight) == 2]


def moved(trainables: Trainables, role: str, seed: int = 0) -> None:
    """Values as after some training: B is no longer zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainables.parameters(role).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def run(network: Transformer, layout: Layout = LAYOUT) -> Tensor:
    sigmas = torch.tensor([0.9, 0.4])
    rows = [i % 2 for i in range(len(layout.segments))]
    return network(PATCHES, TEXT, layout, network.modulation(sigmas), rows)


def test_it_begins_as_the_base(network: Transformer) -> None:
    before = run(network)
    trainables = Trainables(network)
    trainables.add("a", layers(network), Shape(4, 4.0), seed=0)
    with trainables.ride(LAYOUT, ["a"] * 3):
        torch.testing.assert_close(run(network), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_is_trained_is_what_is_written(network: Transformer, shape: Shape) -> None:
    """The network with the adapter injected gives what the network in training gives."""
    plain, known = tiny.transformer(), targets(network)
    trainables = Trainables(network)
    trainables.add("a", layers(network), shape, seed=3)
    moved(trainables, "a")
    with torch.no_grad(), trainables.ride(LAYOUT, ["a"] * 3):
        trained = run(network)
    mix = ((bind(trainables.adapter("a"), plain, known, "digest"), 1.0),)
    table = bake(plain, [0.9, 0.4], mix)
    with torch.no_grad(), Injection(plain, LAYOUT, [mix] * 3):
        injected = plain(PATCHES, TEXT, LAYOUT, table, [0, 1, 0])
    torch.testing.assert_close(trained, injected, rtol=0, atol=2e-5)
    assert not torch.allclose(trained, run(plain), atol=0.01)


def test_merged_by_hand(network: Transformer) -> None:
    name = "transformer_blocks.1.attn.to_k"
    trainables = Trainables(network)
    trainables.add("a", [name], SHAPES["dora"], seed=0)
    moved(trainables, "a")
    with torch.no_grad(), trainables.ride(LAYOUT, ["a"] * 3):
        trained = run(network)
    update = trainables.adapter("a").updates[name]
    trainables.remove()
    weight = network.blocks[1].img.qkv.weight.data[64:128]
    weight += change(update, weight)
    torch.testing.assert_close(run(network), trained, rtol=0, atol=2e-5)


def test_each_segment_goes_with_its_role(network: Transformer) -> None:
    base = run(network)
    trainables = Trainables(network)
    chosen = [layer for layer in layers(network) if "attn" in layer or "mlp" in layer]
    for seed, role in enumerate(("student", "fake")):
        trainables.add(role, chosen, Shape(3, 3.0), seed)
        moved(trainables, role, seed)
    whole = {}
    for role in ("student", "fake", None):
        with torch.no_grad(), trainables.ride(LAYOUT, [role] * 3):
            whole[role] = run(network).split(LAYOUT.patch_lengths)
    roles = ["student", None, "fake"]
    with torch.no_grad(), trainables.ride(LAYOUT, roles):
        mixed = run(network).split(LAYOUT.patch_lengths)
    for n, role in enumerate(roles):
        torch.testing.assert_close(mixed[n], whole[role][n], rtol=0, atol=1e-6)
    assert torch.equal(torch.cat(whole[None]), base)
    assert not torch.allclose(mixed[0], whole["fake"][0], atol=0.01)


def test_removed_it_has_left_no_trace(network: Transformer) -> None:
    before, names = run(network), [n for n, _ in network.named_parameters()]
    trainables = Trainables(network)
    trainables.add("a", layers(network), Shape(), seed=0)
    moved(trainables, "a")
    trainables.remove()
    assert torch.equal(run(network), before)
    assert [n for n, _ in network.named_parameters()] == names


def test_the_start_follows_from_the_seed(network: Transformer) -> None:
    starts = []
    for seed in (5, 5, 6):
        trainables = Trainables(network)
        trainables.add("a", layers(network)[:4], Shape(4), seed)
        starts.append([p.detach().clone() for p in trainables.parameters("a").values()])
        trainables.remove()
    assert all(map(torch.equal, starts[0], starts[1]))
    assert not all(map(torch.equal, starts[0], starts[2]))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradients_are_those_of_the_formula(shape: Shape) -> None:
    """Against finite differences; DoRA's norm is a constant for the gradient, as in its paper."""
    weight = tiny.draw(6, 5).double()
    pair = Pair(shape, weight, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        pair.up.normal_(generator=torch.Generator().manual_seed(1))
    x = tiny.draw(7, 5, seed=2).double()
    assert pair.scale == shape.scale
    parameters = [p for n, p in pair.named_parameters() if shape.dora is False or n == "magnitude"]

    def output(*_: Tensor) -> Tensor:
        return pair(x, x @ weight.T, weight)

    assert torch.autograd.gradcheck(output, parameters, atol=1e-4)
