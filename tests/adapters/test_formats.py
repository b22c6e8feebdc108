"""A file's tensors become updates, all of them, or the file is refused with what is wrong."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from danqing.adapters.adapter import Adapter, Sampling, delta
from danqing.adapters.formats import parse
from danqing.adapters.peft import PEFT_METADATA
from danqing.errors import AdapterError
from tests import tiny
from tests.adapters import files
from tests.adapters.files import ADD_V, NORM_K, SOME, TO_Q

Named = dict[str, Tensor]


def read(named: Named, metadata: dict[str, Any] | None = None) -> Adapter:
    plain = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in (metadata or {}).items()
    }
    return parse(named, plain, "ink")


def refused(named: Named, metadata: dict[str, Any] | None = None) -> str:
    with pytest.raises(AdapterError) as caught:
        read(named, metadata)
    message = str(caught.value)
    assert message.startswith("adapter ink ")
    assert len(message.splitlines()) == 1
    return message


def pair(**parts: Tensor) -> Named:
    """A sound pair on one layer, and what stands beside it."""
    made = files.make("lora", [TO_Q])[TO_Q] | parts
    return files.tensors({TO_Q: made})


def fault_of(value: Any) -> str:
    """A test's name: the fault, without the tensors."""
    return value.removeprefix(TO_Q) if isinstance(value, str) else ""


def peft(rank: int = 4, alpha: float = 8, **more: Any) -> dict[str, Any]:
    return {PEFT_METADATA: {"r": rank, "lora_alpha": alpha, **more}}


# ---- what is read -----------------------------------------------------------------------------


@pytest.mark.parametrize("naming", files.NAMINGS)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_every_naming_gives_the_same_updates(kind: str, naming: str) -> None:
    layers = files.make(kind, SOME, alpha=2.0)
    found = read(files.tensors(layers, naming)).updates
    assert set(found) == set(layers)
    for layer, parts in layers.items():
        assert found[layer].alpha == 2.0
        assert set(found[layer].parts) == set(parts) - {"alpha"}
        assert all(torch.equal(t, parts[name]) for name, t in found[layer].parts.items())


@pytest.mark.parametrize("kind", files.KINDS)
def test_every_kind_is_kept_whole(kind: str) -> None:
    layers = files.make(kind, SOME)
    found = read(files.tensors(layers)).updates
    assert {n: set(update.parts) for n, update in found.items()} == {
        n: set(parts) for n, parts in layers.items()
    }


def test_kinds_may_differ_from_layer_to_layer() -> None:
    layers = files.make("lokr", [TO_Q]) | files.make("dora", [ADD_V]) | files.make("full", [NORM_K])
    kinds = {layer: update.kind for layer, update in read(files.tensors(layers)).updates.items()}
    assert kinds == {TO_Q: "lokr", ADD_V: "lora", NORM_K: "full"}


def test_a_magnitude_over_the_output_may_be_a_column() -> None:
    magnitude = tiny.draw(64)
    found = read(pair(magnitude=magnitude[:, None])).updates[TO_Q].magnitude
    assert found is not None
    assert torch.equal(found, magnitude)


def test_a_magnitude_over_the_input_stays_a_row() -> None:
    found = read(pair(magnitude=tiny.draw(1, 64))).updates[TO_Q].magnitude
    assert found is not None
    assert found.shape == (1, 64)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
)
def test_the_files_own_precision_is_kept(dtype: torch.dtype) -> None:
    halves = {name: tensor.to(dtype) for name, tensor in pair().items()}
    assert {t.dtype for t in read(halves).updates[TO_Q].parts.values()} == {dtype}


# ---- alpha ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alpha",
    [torch.tensor(2.0), torch.tensor([2.0]), torch.tensor([[2]]), torch.tensor(2.0).bfloat16()],
    ids=str,
)
def test_alpha_is_one_number_of_any_type(alpha: Tensor) -> None:
    assert read(pair(alpha=alpha)).updates[TO_Q].alpha == 2.0


def test_without_alpha_the_scale_is_one_and_that_is_noted() -> None:
    adapter = read(pair())
    assert adapter.updates[TO_Q].scale == 1.0
    assert adapter.notes == ("alpha is not stated: the scale is 1, as other tools take it",)


def test_alpha_comes_from_the_metadata() -> None:
    adapter = read(pair(), peft(4, 8))
    assert (adapter.updates[TO_Q].alpha, adapter.updates[TO_Q].scale) == (8.0, 2.0)
    assert adapter.notes == ()


def test_alpha_comes_from_a_pattern() -> None:
    adapter = read(files.tensors(files.make()), peft(4, 8, alpha_pattern={"add_v_proj": 2}))
    assert {layer: update.alpha for layer, update in adapter.updates.items()} == {
        layer: 2.0 if layer == ADD_V else 8.0 for layer in SOME
    }


def test_rank_stabilised() -> None:
    assert read(pair(), peft(4, 8, use_rslora=True)).updates[TO_Q].scale == pytest.approx(8 / 2)


def test_alpha_may_stand_in_both_places_where_they_agree() -> None:
    assert read(pair(alpha=torch.tensor(8.0)), peft(4, 8)).updates[TO_Q].alpha == 8.0


def test_layers_without_a_rank_need_no_alpha() -> None:
    layers = files.make("lora", [TO_Q], alpha=2.0) | files.make("full", [NORM_K])
    found = read(files.tensors(layers)).updates
    assert (found[TO_Q].alpha, found[NORM_K].alpha, found[NORM_K].scale) == (2.0, None, 1.0)


def test_an_alpha_for_some_layers_only() -> None:
    named = files.tensors(files.make("lora", SOME, alpha=2.0))
    del named[f"{ADD_V}.alpha"]
    assert refused(named).endswith(
        f"has an alpha for some layers and not for others: {ADD_V} lacks alpha"
    )


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        (torch.tensor(math.nan), f"holds NaN or infinity: {TO_Q}.alpha"),
        (torch.tensor([math.inf]), f"holds NaN or infinity: {TO_Q}.alpha"),
        (torch.tensor([2.0, 2.0]), f"{TO_Q} alpha [2] is not one number"),
        (torch.zeros(0), f"{TO_Q} alpha [0] is not one number"),
        (torch.tensor(2j), f"{TO_Q}.alpha"),
        (torch.tensor(1e39, dtype=torch.float64), TO_Q),  # more than float32 holds
    ],
    ids=str,
)
def test_an_alpha_that_is_none(alpha: Tensor, message: str) -> None:
    assert message in refused(pair(alpha=alpha))


CONTRADICTIONS = [
    (peft(5, 8), "rank 4, in the metadata 5"),
    (peft(4, 8, rank_pattern={"to_q": 16}), "rank 4, in the metadata 16"),
    (peft(4, 9), "alpha 8, in the metadata 9"),
    (peft(4, 8, alpha_pattern={"to_q": 1}), "alpha 8, in the metadata 1"),
]


@pytest.mark.parametrize(("metadata", "fault"), CONTRADICTIONS)
def test_metadata_that_contradicts_the_tensors(metadata: dict[str, Any], fault: str) -> None:
    message = refused(pair(alpha=torch.tensor(8.0)), metadata)
    assert message.endswith(f"contradicts its own metadata: {TO_Q} has {fault}")


def test_an_alpha_in_the_metadata_that_no_float_holds() -> None:
    assert "lora_alpha" in refused(pair(), {PEFT_METADATA: '{"r": 4, "lora_alpha": 1e39}'})


# ---- what is not whole ------------------------------------------------------------------------


def without(named: Named, end: str) -> Named:
    return {name: tensor for name, tensor in named.items() if not name.endswith(end)}


def kind(name: str) -> Named:
    return files.tensors(files.make(name, [TO_Q]))


INCOMPLETE: list[tuple[Named, str]] = [
    (without(pair(), "lora_A.weight"), f"{TO_Q} lacks down"),
    (without(pair(), "lora_B.weight"), f"{TO_Q} lacks up"),
    ({f"{TO_Q}.lora_B.bias": torch.ones(64)}, f"{TO_Q} lacks down, {TO_Q} lacks up"),
    (without(kind("loha"), "w2_b"), f"{TO_Q} lacks hada_w2_b"),
    (without(kind("lokr"), "w1"), f"{TO_Q} lacks lokr_w1 or lokr_w1_a and lokr_w1_b"),
    (without(kind("lokr_factored"), "w2_a"), f"{TO_Q} lacks lokr_w2 or lokr_w2_a and lokr_w2_b"),
    ({f"{TO_Q}.dora_scale": torch.ones(64)}, f"{TO_Q} has magnitude and no matrix"),
    ({f"{TO_Q}.alpha": torch.ones(())}, f"{TO_Q} has alpha and no matrix"),
    (kind("lora") | kind("full"), f"{TO_Q} has both down and diff"),
    (kind("lora") | kind("lokr"), f"{TO_Q} has both down and lokr_w1"),
    (kind("loha") | kind("lokr"), f"{TO_Q} has both hada_w1_a and lokr_w1"),
    (kind("lora_biased") | {f"{TO_Q}.dora_scale": torch.ones(64)}, "which exclude each other"),
    (kind("lokr") | {f"{TO_Q}.lokr_w1_a": torch.ones(4, 2)}, "lokr_w1"),  # half of another product
    (kind("lokr_half") | kind("lokr"), "lokr_w2"),  # a factor twice: whole, and as a product
]


@pytest.mark.parametrize(("named", "fault"), INCOMPLETE, ids=fault_of)
def test_updates_that_are_not_whole_or_of_two_kinds(named: Named, fault: str) -> None:
    message = refused(named)
    assert "is not whole" in message
    assert fault in message


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{TO_Q}.lora_A.weight", f"transformer.{TO_Q}.lora_A.weight"),
        (f"{TO_Q}.lora_A.weight", f"{TO_Q}.lora_down.weight"),
        (f"{TO_Q}.lora_A.weight", f"lora_unet_{TO_Q.replace('.', '_')}.lora_down.weight"),
        (f"{TO_Q}.lora_A.weight", f"{TO_Q.replace('.0.', '.00.')}.lora_A.weight"),
        (f"{TO_Q}.lora_A.weight", f"{TO_Q}.lora_A"),
    ],
)
def test_two_keys_for_one_part(one: str, other: str) -> None:
    named = pair()
    assert one in named
    message = refused(named | {other: named[one]})
    assert message == f"adapter ink gives a layer the same part twice: {max(one, other)}"


# ---- shapes and values ------------------------------------------------------------------------

ODD: list[tuple[Named, str]] = [
    (pair(down=torch.ones(5, 64)), f"{TO_Q} [64, 4] and up against down [5, 64]"),
    (pair(down=torch.ones(0, 64), up=torch.ones(64, 0)), "[0, 64] is empty (rank 0)"),
    (pair(down=torch.ones(4, 64, 1, 1)), f"{TO_Q} down [4, 64, 1, 1] is no matrix"),
    (pair(up=torch.ones(64)), f"{TO_Q} up [64] is no matrix"),
    (pair(magnitude=torch.ones(2, 64)), f"{TO_Q} magnitude [2, 64] is no vector"),
    (pair(magnitude=torch.ones(())), f"{TO_Q} magnitude [] is no vector"),
    (pair(bias=torch.ones(1, 64)), f"{TO_Q} bias [1, 64] is not a vector"),
    ({f"{TO_Q}.diff": torch.ones(2, 3, 4)}, f"{TO_Q} diff [2, 3, 4] is no vector and no matrix"),
    ({f"{TO_Q}.diff": torch.ones(())}, f"{TO_Q} diff [] is no vector and no matrix"),
    (kind("loha") | {f"{TO_Q}.hada_w1_a": torch.ones(64, 5)}, "hada_w1_a against hada_w1_b"),
    (kind("loha") | {f"{TO_Q}.hada_w1_a": torch.ones(32, 3)}, "multiplies [32, 64] by [64, 64]"),
    (kind("lokr_half") | {f"{TO_Q}.lokr_w2_a": torch.ones(16, 3)}, "lokr_w2_a against lokr_w2_b"),
]


@pytest.mark.parametrize(("named", "fault"), ODD, ids=fault_of)
def test_shapes_that_do_not_go_together(named: Named, fault: str) -> None:
    message = refused(named)
    assert "has shapes that do not go together" in message
    assert fault in message


def poisoned(value: float) -> Callable[[Tensor], Tensor]:
    def poison(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.flatten()[7] = value
        return tensor

    return poison


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [f"{TO_Q}.lora_A.weight", f"{TO_Q}.lora_B.bias", f"{TO_Q}.diff_b"])
def test_values_that_are_not_finite_are_named(name: str, value: float) -> None:
    named = kind("lora_biased")
    named[name] = poisoned(value)(named[name])
    assert refused(named).endswith(f"holds NaN or infinity: {name}")


def test_not_a_number_in_eight_bits() -> None:
    named = pair(up=poisoned(math.nan)(torch.ones(64, 4)).to(torch.float8_e4m3fn))
    assert refused(named).endswith(f"holds NaN or infinity: {TO_Q}.lora_B.weight")


def test_what_single_precision_does_not_hold_is_not_finite() -> None:
    named = pair(up=poisoned(1e300)(torch.ones(64, 4, dtype=torch.float64)))
    assert refused(named).endswith(f"{TO_Q}.lora_B.weight")


def test_products_that_single_precision_does_not_hold() -> None:
    fine = pair(down=torch.full((4, 64), 1e18), up=torch.full((64, 4), 5e19))
    read(fine)
    named = pair(down=torch.full((4, 64), 1e19), up=torch.full((64, 4), 1e19))
    assert refused(named).endswith(f"has products that are not finite: {TO_Q} up x down")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint8, torch.bool], ids=str)
def test_matrices_of_whole_numbers(dtype: torch.dtype) -> None:
    message = refused(pair(down=torch.ones(4, 64, dtype=dtype)))
    assert "give it in a floating-point type" in message
    assert message.endswith(f"{TO_Q}.lora_A.weight is {str(dtype).removeprefix('torch.')}")


def test_whole_numbers_in_an_adapter_named_alpha() -> None:
    """PEFT puts the adapter's own name into a key, whatever it is."""
    named = {
        f"{TO_Q}.lora_A.alpha": torch.ones(4, 64, dtype=torch.int8),
        f"{TO_Q}.lora_B.alpha": torch.ones(64, 4),
    }
    assert "lora_A.alpha is int8" in refused(named)


@pytest.mark.parametrize(("part", "end"), [("down", "lora_A.weight"), ("alpha", "alpha")])
def test_numbers_of_four_bits_are_refused(part: str, end: str) -> None:
    packed = torch.zeros(4, 32, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    assert f"{TO_Q}.{end}" in refused(pair(**{part: packed}))


def test_at_most_ten_faults_are_listed_and_all_are_counted() -> None:
    named = without(files.tensors(files.make("lora", files.matrices())), "lora_B.weight")
    message = refused(named)
    assert message.count("lacks up") == 10
    assert message.endswith(f" and {len(named) - 10} more")


# ---- metadata ---------------------------------------------------------------------------------


def test_metadata_is_kept() -> None:
    metadata = {"format": "pt", "ss_base_model": "anything", "modelspec.title": "墨"}
    assert read(pair(), metadata).metadata == metadata


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", "[" * 100_000, '{"base": []}x'])
def test_our_own_metadata_that_is_no_object(text: str) -> None:
    assert refused(pair(), {"danqing": text}).endswith("has metadata that cannot be read: danqing")


@pytest.mark.parametrize("base", ["mini", 3, ["mini"]])
def test_a_base_that_is_no_object(base: Any) -> None:
    assert refused(pair(), {"danqing": {"base": base}}).endswith("cannot be read: danqing")


def test_what_it_was_made_for_and_from() -> None:
    base = {"id": "mini", "fingerprint": "abc"}
    adapter = read(pair(), {"danqing": {"base": base, "sampling": {"steps": 4}}})
    assert (adapter.base, adapter.sampling) == (base, Sampling(4))
    assert read(pair()).base is read(pair()).sampling is None


SAMPLINGS = [
    ({"steps": 8}, Sampling(8)),
    ({"steps": 2, "sigmas": [1.0, 0.5]}, Sampling(2, (1.0, 0.5, 0.0))),
    ({"steps": 2, "sigmas": [1, 0.5, 0], "guidance": 1}, Sampling(2, (1.0, 0.5, 0.0), 1.0)),
    ({"steps": 1, "guidance": 3.5}, Sampling(1, None, 3.5)),
    (
        {"steps": 1, "sigmas": [1], "also": [[1, 0.5, 0], [1, 0.6, 0.3]]},
        Sampling(1, (1.0, 0.0), None, ((1.0, 0.5, 0.0), (1.0, 0.6, 0.3, 0.0))),
    ),
]


@pytest.mark.parametrize(("values", "expected"), SAMPLINGS)
def test_sampling_is_read(values: dict[str, Any], expected: Sampling) -> None:
    assert read(pair(), {"danqing": {"sampling": values}}).sampling == expected


HUGE = 10**400
WRONG_SAMPLING: list[Any] = [
    4,
    [],
    {},
    "4 steps",
    {"steps": 0},
    {"steps": 1, "also": 3},
    {"steps": 1, "also": [[0.1, 0.5]]},
    {"steps": 1, "also": [["x"]]},
    {"steps": -1},
    {"steps": "4"},
    {"steps": 4.0},
    {"steps": True},
    {"steps": 4, "sigmas": [1.0, 0.5]},
    {"steps": 2, "sigmas": [0.5, 1.0]},
    {"steps": 2, "sigmas": [2.0, 1.0]},
    {"steps": 2, "sigmas": 0.5},
    {"steps": 2, "sigmas": [1.0, "x"]},
    {"steps": 2, "sigmas": [math.nan, 0.5]},
    {"steps": 2, "sigmas": [HUGE, 0.5]},
    {"steps": 2, "guidance": 0.5},
    {"steps": 2, "guidance": math.nan},
    {"steps": 2, "guidance": math.inf},
    {"steps": 2, "guidance": "much"},
    {"steps": 2, "guidance": [1.0]},
    {"steps": 2, "guidance": HUGE},
]


@pytest.mark.parametrize("values", WRONG_SAMPLING, ids=lambda value: str(value)[:40])
def test_sampling_that_cannot_be_read(values: Any) -> None:
    message = refused(pair(), {"danqing": {"sampling": values}})
    assert "has metadata that cannot be read: sampling" in message


def test_several_prefixes_are_noted() -> None:
    mixed = files.tensors(files.make("lora", ["img_in"], alpha=1.0), "peft")
    mixed |= files.tensors(files.make("lora", ["txt_in"], alpha=1.0), "bare")
    assert read(mixed).notes == ("its keys have several prefixes",)


def test_settings_that_are_not_understood_are_refused() -> None:
    assert "needs what danqing does not do: use_qalora is True" in refused(
        pair(), peft(use_qalora=True)
    )


def test_the_matrix_is_that_of_the_file() -> None:
    parts = files.make("lora", [TO_Q])[TO_Q]
    found = delta(read(pair(), peft(4, 2)).updates[TO_Q])
    torch.testing.assert_close(found, 0.5 * parts["up"] @ parts["down"])
