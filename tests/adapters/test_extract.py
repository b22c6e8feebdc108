from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from danqing import Pipeline
from danqing.adapters import formats
from danqing.adapters.adapter import delta
from danqing.adapters.extract import Extracted, extract
from danqing.adapters.merge import merge
from danqing.adapters.write import write
from danqing.errors import AdapterError
from danqing.weights.fingerprint import fingerprint
from tests.adapters import make
from tests.adapters.test_merge import WEIGHTS


@pytest.fixture
def changed(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with an adapter of rank 6 folded in."""
    path = tmp_path / "made.safetensors"
    write(make.adapter("lora", 6), path, "comfyui")
    merge(str(tiny_model), [(str(path), 1.0)], tmp_path / "changed")
    return tmp_path / "changed"


def run(base: Path, other: Path, target: Path, rank: int, naming: str = "diffusers") -> Extracted:
    return extract(str(base), str(other), target, rank=rank, naming=naming)


def test_what_was_merged_is_found_again(
    tiny_model: Path, changed: Path, tiny_pipe: Pipeline, tmp_path: Path
) -> None:
    found = run(tiny_model, changed, tmp_path / "x.safetensors", 6)
    assert found.total == pytest.approx(1.0, abs=1e-5)
    again, made = formats.read(tmp_path / "x.safetensors"), make.adapter("lora", 6)
    assert set(again.updates) == set(made.updates)
    for layer, update in made.updates.items():
        torch.testing.assert_close(delta(again.updates[layer]), delta(update), rtol=0, atol=1e-5)
        assert again.updates[layer].rank == 6
    assert again.base == {"id": str(tiny_model), "fingerprint": fingerprint(tiny_model)}
    strengths = ({str(tmp_path / "x.safetensors"): 1.0}, {str(tmp_path / "made.safetensors"): 1.0})
    ours, theirs = (
        tiny_pipe.denoise(
            tiny_pipe.encode(["a fox"]), [tiny_pipe.noise(1, (64, 64))], [1.0, 0.5], adapters=s
        )[0]
        for s in strengths
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_smaller_rank_keeps_what_it_says(tiny_model: Path, changed: Path, tmp_path: Path) -> None:
    found = run(tiny_model, changed, tmp_path / "x.safetensors", 3)
    again, made = formats.read(tmp_path / "x.safetensors").updates, make.adapter("lora", 6).updates
    missed = sum(float((delta(made[n]) - delta(again[n])).square().sum()) for n in made)
    whole = sum(float(delta(update).square().sum()) for update in made.values())
    assert 0.4 < found.total < 0.9
    assert found.total == pytest.approx(1 - missed / whole, abs=1e-4)


def test_biases_and_norms_are_kept_whole(tiny_model: Path, tiny_copy: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny_copy / WEIGHTS)
    for name in ("proj_out.bias", "txt_norm.weight"):
        tensors[name] += 0.5
    save_file(tensors, tiny_copy / WEIGHTS)
    target = tmp_path / "x.safetensors"
    with pytest.raises(AdapterError, match="cannot be written in the diffusers naming"):
        run(tiny_model, tiny_copy, target, 4)
    run(tiny_model, tiny_copy, target, 4, "comfyui")
    updates = formats.read(target).updates
    assert set(updates) == {"proj_out", "txt_norm"}
    torch.testing.assert_close(updates["proj_out"].parts["bias"], torch.full((64,), 0.5))
    torch.testing.assert_close(updates["txt_norm"].parts["diff"], torch.full((64,), 0.5))


def test_equal_models_have_no_difference(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="the same transformer: nothing to extract"):
        run(tiny_model, tiny_model, tmp_path / "x.safetensors", 4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_of_nothing(tiny_model: Path, changed: Path, tmp_path: Path, rank: int) -> None:
    with pytest.raises(AdapterError, match=f"rank {rank} must be a whole number from 1"):
        run(tiny_model, changed, tmp_path / "x.safetensors", rank)


@pytest.mark.parametrize("wrong", ["missing", "shape"])
def test_other_networks_are_refused(
    tiny_model: Path, tiny_copy: Path, tmp_path: Path, wrong: str
) -> None:
    tensors = load_file(tiny_copy / WEIGHTS)
    if wrong == "missing":
        del tensors["proj_out.bias"]
    else:
        tensors["proj_out.bias"] = torch.zeros(3)
    save_file(tensors, tiny_copy / WEIGHTS)
    with pytest.raises(AdapterError, match=r"proj_out.bias.*two versions of one model"):
        run(tiny_model, tiny_copy, tmp_path / "x.safetensors", 4)


def test_extracted_then_merged_comes_back(tiny_model: Path, changed: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    run(tiny_model, changed, path, 6, "kohya")
    merge(str(tiny_model), [(str(path), 1.0)], tmp_path / "again")
    first, second = load_file(changed / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-5)
