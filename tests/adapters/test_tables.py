"""Modulation tables: shared where no adapter reaches them, and rows of their own where one does."""

import pytest
import torch

from danqing.adapters import formats
from danqing.adapters.inject import Bound, Mix, bake, bind
from danqing.adapters.tables import KEPT, Tables, trace
from danqing.models.transformer import Modulation, Transformer
from tests import tiny
from tests.adapters import files
from tests.adapters.files import IMG_MOD, TO_Q

LEVELS = [1.0, 0.7, 0.3]


@pytest.fixture(scope="module")
def network() -> Transformer:
    return tiny.transformer()


def bound(network: Transformer, digest: str, *layers: str, kind: str = "lora") -> Bound:
    named = files.tensors(files.make(kind, layers or files.tables()))
    return bind(formats.parse(named, {}, "ink"), network, files.known(), digest)


def row_of(modulation: Modulation, row: int) -> list[torch.Tensor]:
    return [t[row] for t in (*modulation.img, *modulation.txt, modulation.out)]


def equal(a: Modulation, row: int, b: Modulation, other: int) -> bool:
    return all(map(torch.equal, row_of(a, row), row_of(b, other)))


def test_adapters_that_do_not_reach_the_table_share_it(network: Transformer) -> None:
    plain: Mix = ((bound(network, "a", TO_Q), 1.0),)
    table = Tables(network).get(LEVELS, [(), plain])
    assert len(table.modulation.out) == len(LEVELS)
    assert [table.row(sigma, mix) for sigma in LEVELS for mix in ((), plain)] == [0, 0, 1, 1, 2, 2]


def test_adapters_that_do_have_rows_of_their_own(network: Transformer) -> None:
    mix: Mix = ((bound(network, "a"), 0.8),)
    table = Tables(network).get(LEVELS, [(), mix])
    assert len(table.modulation.out) == 2 * len(LEVELS)
    plain = network.bake(LEVELS)
    for n, sigma in enumerate(LEVELS):
        assert equal(table.modulation, table.row(sigma, ()), plain, n)
        assert equal(table.modulation, table.row(sigma, mix), bake(network, LEVELS, mix), n)
        assert not equal(table.modulation, table.row(sigma, mix), plain, n)


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("kind", ["lora", "dora", "dora_over_in", "lokr", "full", "lora_biased"])
def test_a_row_alone_and_in_company(network: Transformer, kind: str) -> None:
    """Other levels and other adapters change no bit of it."""
    mix: Mix = ((bound(network, "a", kind=kind), 0.8),)
    other: Mix = ((bound(network, "b"), 1.0), (bound(network, "a", kind=kind), 0.3))
    alone = Tables(network).get([0.7], [mix])
    levels = [n / 40 for n in range(1, 41)] + [0.7]
    company = Tables(network).get(levels, [other, mix, ()])
    assert equal(company.modulation, company.row(0.7, mix), alone.modulation, alone.row(0.7, mix))


def test_strengths_and_digests_tell_rows_apart(network: Transformer) -> None:
    ink, oil, style = bound(network, "a"), bound(network, "b", IMG_MOD), bound(network, "c", TO_Q)
    mixes: list[Mix] = [
        (),
        ((ink, 1.0),),
        ((ink, 0.5),),
        ((oil, 1.0),),
        ((ink, 1.0), (oil, 1.0)),
        ((ink, 1.0), (style, 1.0)),
    ]
    table = Tables(network).get([0.5], mixes)
    rows = [table.row(0.5, mix) for mix in mixes]
    assert sorted(set(rows)) == [0, 1, 2, 3, 4]
    assert rows[5] == rows[1]
    assert trace(mixes[5]) == (("a", 1.0),)


def test_the_order_in_which_pictures_come_does_not_matter(network: Transformer) -> None:
    mix: Mix = ((bound(network, "a"), 0.8),)
    tables = Tables(network)
    assert tables.get(LEVELS, [(), mix]) is tables.get([0.3, 0.7, 1.0, 0.7], [mix, (), mix])


def test_the_last_few_are_kept(network: Transformer) -> None:
    tables = Tables(network)
    first = tables.get([1.0], [()])
    for n in range(1, KEPT):
        tables.get([n / 10], [()])
    assert tables.get([1.0], [()]) is first
    tables.get([0.99], [()])
    assert tables.get([1.0], [()]) is not first
    assert len(tables._kept) == KEPT
