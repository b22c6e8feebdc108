"""Which rows of which layer get which update, and that nothing of it stays behind."""

import pytest
import torch
from torch import Tensor

from danqing.adapters import formats, inject
from danqing.adapters.inject import Bound, Injection, TableInjection, bake, bind
from danqing.adapters.linear import Adapted
from danqing.models.layout import Layout, Segment
from danqing.models.transformer import Transformer
from tests import tiny
from tests.adapters import files
from tests.adapters.files import ADD_V, IMG_MOD, TO_Q

LAYOUT = Layout((Segment(4, 3, 7), Segment(2, 5, 9), Segment(1, 1, 20)))
IMAGE = [slice(0, 12), slice(12, 22), slice(22, 23)]
TEXT = [slice(0, 7), slice(7, 16), slice(16, 36)]


@pytest.fixture(scope="module")
def network() -> Transformer:
    return tiny.transformer()


def bound(network: Transformer, *layers: str, kind: str = "lora", digest: str = "d") -> Bound:
    named = files.tensors(files.make(kind, layers))
    return bind(formats.parse(named, {}, "ink"), network, files.known(), digest)


def adapted(network: Transformer) -> dict[str, Adapted]:
    return {name: m for name, m in network.named_modules() if isinstance(m, Adapted)}


@torch.inference_mode()
def velocity(network: Transformer, mixes: list[inject.Mix]) -> Tensor:
    table = network.bake([0.7])
    with Injection(network, LAYOUT, mixes):
        return network(tiny.draw(23, 64), tiny.draw(36, 64, seed=2), LAYOUT, table, [0, 0, 0])


# ---- rows -------------------------------------------------------------------------------------


def test_neighbours_with_the_same_mix_are_one_run(network: Transformer) -> None:
    ink, oil = bound(network, TO_Q), bound(network, ADD_V)
    one, two = ((ink, 1.0),), ((ink, 1.0), (oil, 0.5))
    mixes = [one, ((ink, 1.0),), (), two, one, one]
    assert inject.runs([3, 4, 5, 6, 7, 8], mixes) == [
        (slice(0, 7), one),
        (slice(12, 18), two),
        (slice(18, 33), one),
    ]


def test_another_strength_is_another_mix(network: Transformer) -> None:
    ink = bound(network, TO_Q)
    found = inject.runs([3, 4], [((ink, 1.0),), ((ink, 0.5),)])
    assert [rows for rows, _ in found] == [slice(0, 3), slice(3, 7)]


def test_a_layer_is_ridden_by_those_whose_mix_adapts_it(network: Transformer) -> None:
    ink, oil = bound(network, TO_Q, ADD_V), bound(network, ADD_V)
    runs = [(slice(0, 3), ((ink, 1.0),)), (slice(3, 7), ((oil, 0.5), (ink, 2.0)))]
    image, text = "blocks.0.img.qkv", "blocks.1.txt.qkv"
    assert inject.riding(image, runs) == [
        (slice(0, 3), [(ink.layers[image], 1.0)]),
        (slice(3, 7), [(ink.layers[image], 2.0)]),
    ]
    assert [besides for _, besides in inject.riding(text, runs)][1] == [
        (oil.layers[text], 0.5),
        (ink.layers[text], 2.0),
    ]
    assert inject.riding("blocks.2.img.out", runs) == []


def test_a_streams_layers_get_the_rows_of_their_own_tokens(network: Transformer) -> None:
    every = bound(network, *files.matrices())
    with Injection(network, LAYOUT, [((every, 1.0),), (), ((every, 0.5),)]):
        for name, layer in adapted(network).items():
            expected = TEXT if ".txt." in name or name.startswith("txt_in") else IMAGE
            assert [rows for rows, _ in layer.riders] == [expected[0], expected[2]], name


def test_layers_of_the_table_are_left_to_the_table(network: Transformer) -> None:
    every = bound(network, *files.matrices())
    tables = {files.known()[name].ours for name in files.tables()}
    with Injection(network, LAYOUT, [((every, 1.0),)] * 3):
        assert set(adapted(network)) == set(every.layers) - tables
    with TableInjection(network, ((every, 1.0),)):
        assert set(adapted(network)) == tables
    assert every.table
    assert not bound(network, TO_Q).table
    assert bound(network, TO_Q, IMG_MOD).table


def test_a_picture_without_adapters_is_untouched_by_its_neighbours(network: Transformer) -> None:
    every = bound(network, *files.known(), kind="full")
    plain, found = (velocity(network, [(), mix, ()]) for mix in ((), ((every, 1.0),)))
    for rows in (IMAGE[0], IMAGE[2]):
        assert torch.equal(found[rows], plain[rows])
    assert not torch.isclose(found[IMAGE[1]], plain[IMAGE[1]]).any(dim=1).all()


def test_only_layers_with_a_rider_are_swapped(network: Transformer) -> None:
    ink = bound(network, TO_Q)
    with Injection(network, LAYOUT, [(), ((ink, 1.0),), ()]):
        assert set(adapted(network)) == {"blocks.0.img.qkv"}
    with Injection(network, LAYOUT, [(), (), ()]):
        assert adapted(network) == {}


# ---- binding ----------------------------------------------------------------------------------


def test_parts_of_a_fused_layer_are_bound_together(network: Transformer) -> None:
    names = [f"transformer_blocks.0.attn.{name}" for name in ("to_v", "to_q")]
    ink = bound(network, *names)
    assert list(ink.layers) == ["blocks.0.img.qkv"]
    columns = [up.columns for up in ink.layers["blocks.0.img.qkv"].ups]
    assert columns == [slice(0, 64), slice(128, 192)]
    assert ink.bytes == 2 * 4 * 16 * (64 + 64)


def test_binding_takes_the_networks_own_precision() -> None:
    half = tiny.transformer().to(torch.bfloat16)
    ink = bound(half, TO_Q, kind="dora")
    up = ink.layers["blocks.0.img.qkv"].ups[0]
    assert up.excess is not None
    assert {up.weight.dtype, up.excess.dtype} == {torch.bfloat16}


def test_the_digest_is_kept(network: Transformer) -> None:
    assert bound(network, TO_Q, digest="abc").digest == "abc"


# ---- nothing stays behind ---------------------------------------------------------------------


def modules(network: Transformer) -> list[tuple[str, int]]:
    return [(name, id(module)) for name, module in network.named_modules()]


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_layers_are_put_back(network: Transformer, error: type[BaseException] | None) -> None:
    every = bound(network, *files.matrices())
    before = modules(network)
    for injection in (
        Injection(network, LAYOUT, [((every, 1.0),)] * 3),
        TableInjection(network, ((every, 1.0),)),
    ):
        if error is None:
            with injection:
                assert modules(network) != before
        else:
            with pytest.raises(error), injection:
                raise error
        assert modules(network) == before


def test_weights_are_never_touched(network: Transformer) -> None:
    before = {name: p.clone() for name, p in network.named_parameters()}
    for kind in files.KINDS:
        mix = ((bound(network, *files.matrices(), kind=kind), 1.0),)
        bake(network, [1.0, 0.5], mix)
        velocity(network, [mix, (), mix])
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_an_injection_can_be_entered_again(network: Transformer) -> None:
    ink, before = bound(network, TO_Q), modules(network)
    injection = Injection(network, LAYOUT, [((ink, 1.0),)] * 3)
    for _ in range(2):
        with injection:
            assert set(adapted(network)) == {"blocks.0.img.qkv"}
        assert modules(network) == before
