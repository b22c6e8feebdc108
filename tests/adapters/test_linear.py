"""An update beside a layer: its formula, and the promise that a row's bits are its own."""

from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.adapters.adapter import Update, change
from danqing.adapters.linear import Adapted, Beside, Rider, add_product, filled_up, make_beside
from danqing.models.linear import MIN_ROWS, Linear, linear
from danqing.models.transformer import FusedLinear, RMSNorm
from tests import tiny
from tests.adapters import files

WIDTH = 64
RANKS = range(1, 130)
ROWS = range(1, 65)
TOKENS = 203


# ---- the promise ------------------------------------------------------------------------------


def low_rank(y: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """As a layer adds it: to some columns of a wider output, in place."""
    middle = torch.cat([y, y, y], dim=1)[:, y.shape[1] : 2 * y.shape[1]]
    down, up, _ = filled_up(down, up)
    add_product(middle, linear(x, down, None), up, 0.7)
    return middle


def inputs(rank: int, inner: int, outer: int, dtype: torch.dtype) -> list[Tensor]:
    shapes = [(TOKENS, outer), (TOKENS, inner), (rank, inner), (outer, rank)]
    return [tiny.draw(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes)]


@cache
def on_one_thread(rank: int, inner: int, outer: int, dtype: torch.dtype) -> Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = low_rank(*inputs(rank, inner, outer, dtype))
    torch.set_num_threads(before)
    return whole


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("half", [0, 1], ids=["even", "odd"])
def test_any_rank_and_number_of_rows(half: int) -> None:
    for rank in RANKS[1 - half :: 2]:
        y, x, down, up = inputs(rank, WIDTH, WIDTH, torch.float32)
        whole = on_one_thread(rank, WIDTH, WIDTH, torch.float32)
        assert torch.equal(low_rank(y, x, down, up), whole), rank
        for rows in ROWS[rank % 3 :: 3]:
            own = slice(2 * rows, 3 * rows)
            part = low_rank(y[own].clone(), x[own].clone(), down, up)
            assert torch.equal(part, whole[own]), (rank, rows)


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inner", "outer"), [(64, 384), (256, 64), (768, 256)])
def test_layers_of_other_widths(inner: int, outer: int, dtype: torch.dtype) -> None:
    for rank in (1, 16, 33, 64):
        y, x, down, up = inputs(rank, inner, outer, dtype)
        whole = on_one_thread(rank, inner, outer, dtype)
        parts = zip(tiny.pieces(y), tiny.pieces(x), strict=True)
        assert torch.equal(torch.cat([low_rank(*part, down, up) for part in parts]), whole)


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("kind", ["dora", "dora_over_in", "lokr", "loha", "full", "lora_biased"])
def test_rows_of_every_kind(kind: str) -> None:
    layer, beside = adapted(kind)
    x = tiny.draw(TOKENS, WIDTH, seed=5)
    whole = Adapted(layer, [(slice(None), [(beside, 0.7)])])(x)
    parts = [Adapted(layer, [(slice(None), [(beside, 0.7)])])(part) for part in tiny.pieces(x)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.usefixtures("any_threads")
def test_rows_of_a_norms_gain() -> None:
    layer = tiny.seeded(lambda: RMSNorm(32))
    beside = make_beside(layer, 1, [(0, Update({"diff": tiny.draw(32, seed=1)}))])
    x = tiny.draw(1203, 2, 32, seed=5)
    whole = Adapted(layer, [(slice(None), [(beside, 0.7)])])(x)
    parts = [Adapted(layer, [(slice(None), [(beside, 0.7)])])(part) for part in tiny.pieces(x)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("rank", [1, 4, 15, 16, 17, 129])
def test_ranks_are_filled_up_with_zeros(rank: int) -> None:
    down, up = tiny.draw(rank, WIDTH), tiny.draw(96, rank, seed=1)
    long, wide, filled = filled_up(down, up)
    assert (long.shape, wide.shape) == ((filled, WIDTH), (96, filled))
    assert filled % MIN_ROWS == 0 <= filled - rank < MIN_ROWS
    assert torch.equal(long[:rank], down)
    assert torch.equal(wide[:, :rank], up)
    assert not long[rank:].any()
    assert not wide[:, rank:].any()


@pytest.mark.parametrize("rows", [1, 15, 16, 17])
def test_a_product_is_added_in_place(rows: int) -> None:
    x, weight = tiny.draw(rows, 32), tiny.draw(48, 32, seed=1)
    out = tiny.draw(rows, 144, seed=2)
    before = out.clone()
    add_product(out[:, 48:96], x, weight, -0.5)
    torch.testing.assert_close(out[:, 48:96], before[:, 48:96] - 0.5 * F.linear(x, weight))
    assert torch.equal(out[:, :48], before[:, :48])
    assert torch.equal(out[:, 96:], before[:, 96:])


# ---- the formula ------------------------------------------------------------------------------


def update_of(kind: str) -> Update:
    return Update(files.KINDS[kind]((96, WIDTH), 7), 2.0)


def adapted(kind: str) -> tuple[Linear, Beside]:
    """A layer, and an update of this kind for it."""
    layer = tiny.seeded(lambda: Linear(WIDTH, 96))
    return layer, make_beside(layer, 1, [(0, update_of(kind))])


@pytest.mark.parametrize("strength", [1.0, -0.4])
@pytest.mark.parametrize("kind", [kind for kind in files.KINDS if "bias" not in kind])
def test_it_is_the_layer_with_the_change_in_its_weight(kind: str, strength: float) -> None:
    layer, beside = adapted(kind)
    x = tiny.draw(20, WIDTH, seed=5)
    moved = layer.weight + strength * change(update_of(kind), layer.weight)
    found = Adapted(layer, [(slice(None), [(beside, strength)])])(x)
    torch.testing.assert_close(found, F.linear(x, moved, layer.bias), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e-4])
def test_a_gain_is_added_to_a_norms_own(size: float) -> None:
    layer, moved = (tiny.seeded(lambda: RMSNorm(32)) for _ in range(2))
    diff, x = tiny.draw(32, seed=1), size * tiny.draw(5, 2, 32, seed=5)
    moved.weight -= 0.5 * diff
    beside = make_beside(layer, 1, [(0, Update({"diff": diff}))])
    found = Adapted(layer, [(slice(1, 4), [(beside, -0.5)])])(x)
    torch.testing.assert_close(found[1:4], moved(x)[1:4], atol=1e-6, rtol=1e-5)
    assert torch.equal(found[[0, 4]], layer(x)[[0, 4]])


def test_biases_are_added_with_the_strength() -> None:
    layer = tiny.seeded(lambda: Linear(WIDTH, 96))
    parts = {
        "down": torch.zeros(4, WIDTH),
        "up": torch.zeros(96, 4),
        "up_bias": tiny.draw(96),
        "bias": tiny.draw(96, seed=1),
    }
    beside = make_beside(layer, 1, [(0, Update(parts, 2.0))])
    x = tiny.draw(20, WIDTH, seed=5)
    expected = layer(x) - 0.5 * (parts["bias"] + 0.5 * parts["up_bias"])
    found = Adapted(layer, [(slice(None), [(beside, -0.5)])])(x)
    torch.testing.assert_close(found, expected)


def fused(strength: float = 1.0) -> tuple[FusedLinear, FusedLinear, list[Rider]]:
    """Query, key and value: as they are, with an adapter merged, and with it beside them."""
    layer, merged = (tiny.seeded(lambda: FusedLinear(WIDTH, 3 * WIDTH)) for _ in range(2))
    kinds = ["dora", "lora_biased", "full"]
    updates = [Update(files.KINDS[kind]((WIDTH, WIDTH), n), 3.0) for n, kind in enumerate(kinds)]
    for n, update in enumerate(updates):
        rows = slice(n * WIDTH, (n + 1) * WIDTH)
        merged.weight[rows] += strength * change(update, layer.weight[rows])
    merged.bias[WIDTH : 2 * WIDTH] += strength * updates[1].parts["bias"]
    merged.bias[WIDTH : 2 * WIDTH] += strength * 0.75 * updates[1].parts["up_bias"]
    beside = make_beside(layer, 3, list(enumerate(updates)))
    return layer, merged, [(slice(None), [(beside, strength)])]


def test_parts_of_a_fused_layer_get_their_own_update() -> None:
    layer, merged, riders = fused()
    x = tiny.draw(20, WIDTH, seed=5)
    torch.testing.assert_close(Adapted(layer, riders)(x), merged(x), atol=1e-5, rtol=1e-5)


def test_the_first_third_can_be_left_out() -> None:
    layer, merged, riders = fused(-0.6)
    x = tiny.draw(20, WIDTH, seed=5)
    found = Adapted(layer, riders).without_first_third(x)
    torch.testing.assert_close(found, merged.without_first_third(x), atol=1e-5, rtol=1e-5)


def test_rows_without_a_rider_are_the_layers_own() -> None:
    layer, beside = adapted("dora")
    x = tiny.draw(50, WIDTH, seed=5)
    found = Adapted(layer, [(slice(3, 9), [(beside, 1.0)]), (slice(20, 45), [(beside, 0.5)])])(x)
    plain, rest = layer(x), [*range(3), *range(9, 20), *range(45, 50)]
    assert torch.equal(found[rest], plain[rest])
    assert not torch.isclose(found[3:9], plain[3:9]).all(dim=1).any()


def test_several_adapters_add_up() -> None:
    """Weight-decomposed ones scale what the layer alone gives, not what others added."""
    layer, first = adapted("dora")
    second = make_beside(layer, 1, [(0, Update(files.dora((96, WIDTH), 40)))])
    x = tiny.draw(20, WIDTH, seed=5)
    both = Adapted(layer, [(slice(None), [(first, 1.0), (second, -0.5)])])(x)
    single = [Adapted(layer, [(slice(None), [mix])])(x) for mix in ((first, 1.0), (second, -0.5))]
    torch.testing.assert_close(both, single[0] + single[1] - layer(x), atol=1e-5, rtol=1e-5)


def test_a_layer_in_half_precision_gets_its_update_in_half_precision() -> None:
    layer = tiny.seeded(lambda: Linear(WIDTH, 96)).to(torch.bfloat16)
    beside = make_beside(layer, 1, [(0, Update(files.dora((96, WIDTH), 7)))])
    assert beside.down is not None
    assert {beside.down.dtype, *(up.weight.dtype for up in beside.ups)} == {torch.bfloat16}
    assert (
        Adapted(layer, [(slice(None), [(beside, 1.0)])])(
            tiny.draw(3, WIDTH, dtype=torch.bfloat16)
        ).dtype
        == torch.bfloat16
    )


def test_the_weight_is_seen_through() -> None:
    layer, _ = adapted("lora")
    assert Adapted(layer, []).weight is layer.weight


def test_bytes_count_matrices() -> None:
    assert adapted("lora")[1].bytes == 4 * 16 * (WIDTH + 96)
    assert adapted("full")[1].bytes == 4 * WIDTH * 96
