from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danqing import Pipeline
from danqing.adapters import formats
from danqing.adapters.adapter import Adapter, Sampling, Update, bias_change, delta
from danqing.adapters.combine import combine, combine_files
from danqing.adapters.write import write
from danqing.errors import AdapterError
from tests.adapters import make

A, B = make.adapter("lora", 4, 1), make.adapter("lora", 7, 2, "attn")


def whole(weighted: list[tuple[Adapter, float]], layer: str) -> torch.Tensor:
    own = [s * delta(a.updates[layer]) for a, s in weighted if layer in a.updates]
    return torch.stack(own).sum(0)


def test_side_by_side_it_is_exact() -> None:
    weighted = [(A, 0.5), (B, -2.0)]
    found = combine(weighted)
    assert set(found.adapter.updates) == set(A.updates) | set(B.updates)
    for layer, update in found.adapter.updates.items():
        expected = whole(weighted, layer)
        torch.testing.assert_close(delta(update), expected, rtol=0, atol=2e-6)
        assert update.rank == (11 if layer in B.updates else 4)
    assert set(found.energy.values()) == {1.0}


def test_to_a_rank_it_is_the_nearest() -> None:
    weighted = [(A, 0.5), (B, -2.0)]
    found = combine(weighted, 5)
    for layer in B.updates:
        expected = whole(weighted, layer)
        values = torch.linalg.svdvals(expected.double())
        missed = (delta(found.adapter.updates[layer]) - expected).square().sum()
        assert float(missed) == pytest.approx(float(values[5:].square().sum()), rel=1e-3)
        kept = float(1 - values[5:].square().sum() / values.square().sum())
        assert found.energy[layer] == pytest.approx(kept, abs=1e-4)
    assert max(u.rank or 0 for u in found.adapter.updates.values()) == 5


@pytest.mark.parametrize("kind", ["loha", "lokr", "whole_lokr", "full"])
def test_other_kinds_become_plain_ones(kind: str) -> None:
    weighted = [(make.adapter(kind, 2, 3, "to_q"), 1.5), (B, 1.0)]
    found = combine(weighted, 64)
    for layer in weighted[0][0].updates:
        update = found.adapter.updates[layer]
        assert update.kind == "lora"
        torch.testing.assert_close(delta(update), whole(weighted, layer), rtol=0, atol=1e-5)


def test_whole_matrices_add_up_without_a_rank() -> None:
    weighted = [(make.adapter("full", 0, 3, "to_q"), 1.5), (B, 1.0)]
    update = combine(weighted).adapter.updates["transformer_blocks.0.attn.to_q"]
    assert set(update.parts) == {"diff"}
    expected = whole(weighted, "transformer_blocks.0.attn.to_q")
    torch.testing.assert_close(update.parts["diff"], expected)


def test_biases_and_norms_add_up() -> None:
    norm = Adapter({"txt_norm": Update({"diff": torch.ones(64)})})
    biased = make.adapter("with_up_bias", 3, 5, "proj_out")
    found = combine([(norm, 0.5), (norm, 0.25), (biased, 2.0), (biased, 1.0)], 2).adapter.updates
    assert torch.equal(found["txt_norm"].parts["diff"], torch.full((64,), 0.75))
    own = bias_change(biased.updates["proj_out"])
    assert own is not None
    torch.testing.assert_close(found["proj_out"].parts["bias"], 3 * own)


@pytest.mark.parametrize(
    ("weighted", "rank", "error"),
    [
        ([], None, "no adapter to combine"),
        ([(A, 1.0)], 0, "rank 0 must be a whole number from 1"),
        ([(make.adapter("dora"), 1.0)], 4, "needs the model's weights for DoRA"),
        ([(make.adapter("lokr"), 1.0)], None, "exact for plain LoRA only; give --rank"),
        (
            [(A, 1.0), (Adapter({"proj_out": Update({"diff": torch.ones(2, 2)})}), 1.0)],
            None,
            r"different models: proj_out has \[\(2, 2\), \(64, 64\)\]",
        ),
    ],
    ids=["none", "rank", "dora", "lokr", "shapes"],
)
def test_what_cannot_be_combined(
    weighted: list[tuple[Adapter, float]], rank: int | None, error: str
) -> None:
    with pytest.raises(AdapterError, match=error):
        combine(weighted, rank)


def test_base_and_sampling_stay_where_they_agree() -> None:
    base, four = {"id": "mini", "fingerprint": "1"}, Sampling(4, None, 1.0)
    few, style = replace(A, base=base, sampling=four), replace(B, base=base)
    found = combine([(few, 1.0), (style, 0.5)]).adapter
    assert (found.base, found.sampling) == (base, four)
    other = combine([(few, -1.0), (replace(style, base=None), 1.0)]).adapter
    assert (other.base, other.sampling) == (None, None)


def test_files(tiny_pipe: Pipeline, tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, adapter in zip(paths, (A, B), strict=True):
        write(adapter, path, "kohya")
    target = tmp_path / "both.safetensors"
    combine_files([(paths[0], 0.5), (paths[1], -1.0)], target, naming="lightning")
    pair, both = {str(paths[0]): 0.5, str(paths[1]): -1.0}, {str(target): 1.0}
    ours, theirs = (
        tiny_pipe.denoise(
            tiny_pipe.encode(["a fox"]), [tiny_pipe.noise(1, (64, 64))], [1.0, 0.5], adapters=s
        )[0]
        for s in (both, pair)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    combine_files([(paths[0], 1.0)], target, rank=2, dtype="bfloat16", overwrite=True)
    found = formats.read(target).updates
    assert {u.rank for u in found.values()} == {2}
    assert {p.dtype for u in found.values() for p in u.parts.values()} == {torch.bfloat16}
