"""The canonical form: what an update says of itself, and the formulas on numbers done by hand."""

import pytest
import torch
from torch import Tensor

from danqing.adapters.adapter import (
    Adapter,
    Sampling,
    Update,
    bias_change,
    change,
    delta,
    gain,
)
from tests import tiny
from tests.adapters import files


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values)


LORA = {"down": rows([3.0, 4.0, 5.0]), "up": rows([1.0], [2.0])}
LOHA = {
    "hada_w1_a": rows([1.0], [2.0]),
    "hada_w1_b": rows([3.0, 4.0]),
    "hada_w2_a": rows([1.0], [-1.0]),
    "hada_w2_b": rows([5.0, 6.0]),
}
LOKR = {"lokr_w1": rows([1.0, 2.0]), "lokr_w2": rows([3.0], [4.0])}
ROWS = {"lokr_w1": rows([1.0, 2.0]), "lokr_w2": rows([3.0, 4.0])}
FACTORED = {
    "lokr_w1_a": rows([1.0]),
    "lokr_w1_b": rows([1.0, 2.0]),
    "lokr_w2_a": rows([3.0], [4.0]),
    "lokr_w2_b": rows([1.0]),
}
HALF = {part: (LOKR | FACTORED)[part] for part in ("lokr_w1", "lokr_w2_a", "lokr_w2_b")}


# ---- formulas ---------------------------------------------------------------------------------

BY_HAND = [
    (LORA, None, [[3.0, 4.0, 5.0], [6.0, 8.0, 10.0]]),
    (LORA, 0.5, [[1.5, 2.0, 2.5], [3.0, 4.0, 5.0]]),
    (LOHA, None, [[15.0, 24.0], [-30.0, -48.0]]),
    (LOHA, 2.0, [[30.0, 48.0], [-60.0, -96.0]]),
    (LOKR, None, [[3.0, 6.0], [4.0, 8.0]]),
    (LOKR, 7.0, [[21.0, 42.0], [28.0, 56.0]]),  # no rank: alpha is the scale
    (ROWS, None, [[3.0, 4.0, 6.0, 8.0]]),  # the first factor is the coarse one
    (FACTORED, 2.0, [[6.0, 12.0], [8.0, 16.0]]),
    (HALF, 0.5, [[1.5, 3.0], [2.0, 4.0]]),
    ({"diff": rows([1.0, -1.0])}, 7.0, [[1.0, -1.0]]),
]


@pytest.mark.parametrize(("parts", "alpha", "expected"), BY_HAND)
def test_the_matrix_of_an_update(
    parts: dict[str, Tensor], alpha: float | None, expected: list[list[float]]
) -> None:
    update = Update(parts, alpha)
    assert delta(update).tolist() == expected
    assert update.shape == (len(expected), len(expected[0]))


def test_alpha_is_over_the_rank() -> None:
    parts = files.lora((64, 32), 3, rank=5)
    expected = 0.4 * parts["up"] @ parts["down"]
    torch.testing.assert_close(delta(Update(parts, 2.0)), expected)


def test_a_zero_alpha_is_a_zero_scale() -> None:
    assert not delta(Update(LORA, 0.0)).any()


def test_halves_are_multiplied_in_single_precision() -> None:
    halves = {part: tensor.bfloat16() for part, tensor in files.lora((64, 32), 3).items()}
    found = delta(Update(halves))
    assert found.dtype == torch.float32
    assert torch.equal(found, halves["up"].float() @ halves["down"].float())


def test_a_magnitude_over_the_output_is_the_length_of_each_row() -> None:
    weight, parts = tiny.draw(64, 32), files.dora((64, 32), 3)
    moved = weight + change(Update(parts, 2.0), weight)
    torch.testing.assert_close(moved.norm(dim=1), parts["magnitude"])
    plain = weight + delta(Update(parts, 2.0))
    torch.testing.assert_close(
        moved / moved.norm(dim=1)[:, None], plain / plain.norm(dim=1)[:, None]
    )


def test_a_magnitude_over_the_input_is_the_length_of_each_column() -> None:
    weight, parts = tiny.draw(64, 32), files.dora_over_in((64, 32), 3)
    moved = weight + change(Update(parts), weight)
    torch.testing.assert_close(moved.norm(dim=0, keepdim=True), parts["magnitude"])


def test_the_weights_own_magnitude_changes_nothing() -> None:
    weight = tiny.draw(64, 32)
    for magnitude in (weight.norm(dim=1), weight.norm(dim=0, keepdim=True)):
        parts = {"down": tiny.draw(4, 32), "up": torch.zeros(64, 4), "magnitude": magnitude}
        torch.testing.assert_close(change(Update(parts), weight), torch.zeros(64, 32))


def test_without_a_magnitude_the_weight_does_not_matter() -> None:
    assert torch.equal(change(Update(LORA), tiny.draw(2, 3)), delta(Update(LORA)))


def test_gains_have_the_shape_that_scales_the_weight() -> None:
    weight = tiny.draw(6, 4)
    assert gain(torch.ones(6), weight).shape == (6, 1)
    assert gain(torch.ones(1, 4), weight).shape == (1, 4)


def test_biases_of_the_up_projection_are_scaled_with_it() -> None:
    own, of_up = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    assert bias_change(Update(LORA)) is None
    for parts, expected in [
        ({"bias": own}, [1.0, 2.0]),
        ({"up_bias": of_up}, [5.0, 10.0]),
        ({"bias": own, "up_bias": of_up}, [6.0, 12.0]),
    ]:
        found = bias_change(Update({**LORA, **parts}, 0.5))
        assert found is not None
        assert found.tolist() == expected


# ---- what an update says of itself ------------------------------------------------------------

SAID = {
    "lora": ("lora", 4),
    "lora_biased": ("lora", 4),
    "dora": ("lora", 4),
    "dora_over_in": ("lora", 4),
    "loha": ("loha", 3),
    "lokr": ("lokr", None),
    "lokr_half": ("lokr", 2),
    "lokr_factored": ("lokr", 2),
    "full": ("full", None),
}


@pytest.mark.parametrize("kind", SAID)
def test_kind_rank_and_shape(kind: str) -> None:
    update = Update(files.KINDS[kind]((96, 64), 5), 6.0)
    assert (update.kind, update.rank, update.shape) == (*SAID[kind], (96, 64))
    assert update.scale == (1.0 if kind == "full" else 6.0 / (update.rank or 1))
    assert (update.magnitude is not None) == ("dora" in kind)


def test_a_bias_alone_changes_no_weight() -> None:
    update = Update(files.bias((96, 64), 5))
    assert (update.kind, update.rank, update.shape, update.scale) == ("full", None, None, 1.0)


def test_without_alpha_the_scale_is_one() -> None:
    assert Update(files.lora((96, 64), 5)).scale == 1.0


def test_bytes_are_those_of_all_parts() -> None:
    update = Update(files.dora((96, 64), 5))
    assert update.bytes == 4 * (4 * 64 + 96 * 4 + 96)
    assert update.to(torch.device("cpu"), torch.bfloat16).bytes == update.bytes // 2
    assert Adapter({"a": update, "b": update}).bytes == 2 * update.bytes


def test_alpha_is_kept_when_it_moves() -> None:
    moved = Update(LORA, 0.5).to(torch.device("cpu"), torch.float16)
    assert (moved.alpha, moved.parts["up"].dtype) == (0.5, torch.float16)


@pytest.mark.parametrize(
    ("sampling", "text"),
    [
        (Sampling(8), "8 steps"),
        (Sampling(2, (1.0, 0.5, 0.0)), "2 steps at 1, 0.5"),
        (Sampling(4, None, 1.0), "4 steps, guidance 1"),
        (Sampling(1, (1.0, 0.0), 2.5), "1 steps at 1, guidance 2.5"),
    ],
)
def test_sampling_in_words(sampling: Sampling, text: str) -> None:
    assert str(sampling) == text
