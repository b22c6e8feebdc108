import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import danqing
from danqing import Pipeline
from danqing.adapters.adapter import Adapter, Sampling
from danqing.adapters.merge import merge
from danqing.adapters.write import write
from danqing.errors import AdapterError, ModelError, OutputError, RequestError
from tests import tiny
from tests.adapters import make

SIGMAS = [1.0, 0.6, 0.2]
FOUR = Sampling(4, (1.0, 0.9, 0.75, 0.5, 0.0), 1.0)
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def file(folder: Path, adapter: Adapter, name: str = "a") -> str:
    path = folder / f"{name}.safetensors"
    write(adapter, path, "comfyui")
    return str(path)


def latent(pipe: Pipeline, adapters: dict[str, float] | None = None) -> torch.Tensor:
    text, noise = pipe.encode(["a red fox"]), [pipe.noise(3, (64, 48))]
    return pipe.denoise(text, noise, SIGMAS, 2.0, adapters=adapters)[0]


@pytest.mark.parametrize("kind", [kind for kind in make.KINDS if kind != "with_up_bias"])
def test_merged_is_injected(tiny_model: Path, tiny_pipe: Pipeline, tmp_path: Path, kind: str):
    name = file(tmp_path, make.adapter(kind))
    merged = merge(str(tiny_model), [(name, 0.7)], tmp_path / "model")
    after = latent(danqing.load(str(tmp_path / "model"), device="cpu"))
    expected = latent(tiny_pipe, {name: 0.7})
    assert (after - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not torch.allclose(after, latent(tiny_pipe), atol=0.01)
    assert merged.lost < 1e-6
    biased = kind == "with_bias"
    assert merged.tensors == (2 if biased else 1) * len(make.MATRICES)


def test_several_at_their_strengths(tiny_model: Path, tiny_pipe: Pipeline, tmp_path: Path) -> None:
    a = file(tmp_path, make.adapter("lora", 5, 1), "a")
    b = file(tmp_path, make.adapter("dora", 3, 2, "attn"), "b")
    merge(str(tiny_model), [(a, 0.5), (b, -0.25)], tmp_path / "model")
    after = latent(danqing.load(str(tmp_path / "model"), device="cpu"))
    expected = latent(tiny_pipe, {a: 0.5, b: -0.25})
    assert (after - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_it_is_rounded_once(tiny_copy: Path, tmp_path: Path) -> None:
    adapter = make.adapter(only="to_v")
    merged = merge(
        str(tiny_copy), [(file(tmp_path, adapter), 0.3)], tmp_path / "m", dtype="bfloat16"
    )
    before, after = load_file(tiny_copy / WEIGHTS), load_file(tmp_path / "m" / WEIGHTS)
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    for layer, update in adapter.updates.items():
        change = 0.3 * (2.0 * (update.parts["up"] @ update.parts["down"]))
        exact = (before[f"{layer}.weight"] + change).to(torch.bfloat16)
        assert torch.equal(after[f"{layer}.weight"], exact)
    assert 1e-4 < merged.lost < 0.1


def test_everything_else_stays(tiny_copy: Path, tmp_path: Path) -> None:
    merge(str(tiny_copy), [(file(tmp_path, make.adapter(only="to_q")), 1.0)], tmp_path / "model")
    theirs = {p.relative_to(tiny_copy) for p in tiny_copy.rglob("*") if p.is_file()}
    ours = {
        p.relative_to(tmp_path / "model") for p in (tmp_path / "model").rglob("*") if p.is_file()
    }
    assert ours == theirs
    for path in theirs - {Path(WEIGHTS)}:
        assert (tmp_path / "model" / path).read_bytes() == (tiny_copy / path).read_bytes()
    before, after = load_file(tiny_copy / WEIGHTS), load_file(tmp_path / "model" / WEIGHTS)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{layer}.weight" for layer in make.adapter(only="to_q").updates}


def test_the_sampling_becomes_the_models_own(tiny_copy: Path, tmp_path: Path) -> None:
    name = file(tmp_path, replace(make.adapter(only="to_q"), sampling=FOUR))
    merge(str(tiny_copy), [(name, 1.0)], tmp_path / "model")
    pipe = danqing.load(str(tmp_path / "model"), device="cpu")
    ready = pipe.check([danqing.Request("x")])[0]
    assert (ready.steps, ready.sigmas, ready.guidance) == (4, FOUR.sigmas, 1.0)
    assert ready.size == tuple(tiny.CARD["size"])
    assert pipe.check([danqing.Request("x", steps=7)])[0].sigmas is None


def test_two_samplings_are_refused(tiny_copy: Path, tmp_path: Path) -> None:
    a = file(tmp_path, replace(make.adapter(), sampling=FOUR), "a")
    b = file(tmp_path, replace(make.adapter(), sampling=Sampling(8)), "b")
    with pytest.raises(RequestError, match="made for different sampling"):
        merge(str(tiny_copy), [(a, 1.0), (b, 1.0)], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def quantise(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    for name in tensors:
        if "to_q" in name and name.endswith("weight"):
            tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, folder / WEIGHTS)


def test_quantised_weights_are_refused_unless_told(tiny_copy: Path, tmp_path: Path) -> None:
    quantise(tiny_copy)
    q, k = (file(tmp_path, make.adapter(only=f"to_{n}"), n) for n in "qk")
    with pytest.raises(AdapterError, match=r"to_q.weight is torch.float8_e4m3fn.*--dtype bfloat16"):
        merge(str(tiny_copy), [(q, 1.0)], tmp_path / "model")
    assert not list(tmp_path.glob("*model*"))
    merge(str(tiny_copy), [(k, 1.0)], tmp_path / "other")  # touches no quantised weight
    lossy = merge(str(tiny_copy), [(q, 0.01)], tmp_path / "back", allow_quantised=True)
    wide = merge(str(tiny_copy), [(q, 0.01)], tmp_path / "wide", dtype="float32")
    assert lossy.lost > 0.5 > 1e-4 > wide.lost
    kept = load_file(tmp_path / "back" / WEIGHTS)["transformer_blocks.0.attn.to_q.weight"]
    assert kept.dtype == torch.float8_e4m3fn


def test_what_does_not_fit_leaves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    other = {
        "transformer_blocks.7.attn.to_q": make.adapter(only="0.attn.to_q").updates.popitem()[1]
    }
    name = file(tmp_path, Adapter(other))
    with pytest.raises(
        AdapterError, match=r"does not fit .*no layer transformer_blocks.7.attn.to_q"
    ):
        merge(str(tiny_model), [(name, 1.0)], tmp_path / "model")
    assert not list(tmp_path.glob("*model*"))


def test_infinity_is_not_merged(tiny_model: Path, tmp_path: Path) -> None:
    name = file(tmp_path, make.adapter(only="to_q"))
    with pytest.raises(AdapterError, match=r"to_q.weight would hold infinity in torch.float16"):
        merge(str(tiny_model), [(name, 1e6)], tmp_path / "far" / "model", dtype="float16")
    assert not (tmp_path / "far").exists()


def test_places_and_models_that_are_not_there(tiny_model: Path, tmp_path: Path) -> None:
    name = file(tmp_path, make.adapter(only="to_q"))
    with pytest.raises(OutputError, match="is not an empty folder"):
        merge(str(tiny_model), [(name, 1.0)], tmp_path)
    with pytest.raises(ModelError, match="neither 'mini'"):
        merge("nowhere", [(name, 1.0)], tmp_path / "model")
    with pytest.raises(
        AdapterError, match="adapter 'ink' is neither a file nor one of lightning-4"
    ):
        merge(str(tiny_model), [("ink", 1.0)], tmp_path / "model")


def test_the_card_keeps_what_it_had(tiny_copy: Path, tmp_path: Path) -> None:
    name = file(tmp_path, replace(make.adapter(only="to_q"), sampling=Sampling(3)))
    merge(str(tiny_copy), [(name, 1.0)], tmp_path / "model")
    card = json.loads((tmp_path / "model" / "danqing.json").read_text("utf-8"))
    assert (card["steps"], card["guidance"], card["sigmas"]) == (3, tiny.CARD["guidance"], None)
