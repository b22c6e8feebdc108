"""The real client: diffusers opens what danqing exports, and paints the same picture."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from danqing.engine import Pipeline, load
from danqing.types import Request
from danqing.weights.export import export
from danqing.weights.hub import EMBEDDED, find

from . import reference
from .random_models import Pair

GetPair = Callable[[int], Pair]
# Plain, sharded and flat, renamed, all of them.
SEEDS = [0, 3, 4, 7]
CLASSES = {
    "transformer": QwenImageTransformer2DModel,
    "text_encoder": Qwen2_5_VLForConditionalGeneration,
    "vae": AutoencoderKLQwenImage,
}


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a component's folder, shards together."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found.update(load_file(path))
    return found


def assert_whole(folder: Path) -> None:
    """diffusers and transformers find a tensor for every parameter, and one for none."""
    for component, cls in CLASSES.items():
        _, info = cls.from_pretrained(folder, subfolder=component, output_loading_info=True)
        problems = {key: list(value) for key, value in info.items() if value}
        assert not problems, f"{component}: {problems}"


def assert_same_picture(pipe: Pipeline, folder: Path, request: Request) -> None:
    """<= 1/255 a pixel from the same noise."""
    oracle = QwenImagePipeline.from_pretrained(folder, dtype=torch.float32)
    oracle.set_progress_bar_config(disable=True)
    result = pipe.generate(request)
    size, steps = result.request.size, result.request.steps
    assert size is not None
    assert steps is not None
    theirs = reference.paint(
        oracle,
        [request.prompt],
        [pipe.noise(request.seed, size)],
        size=size,
        steps=steps,
        true_cfg_scale=result.request.guidance,
        negative_prompt=request.negative,
    )
    ours = torch.tensor(list(result.image.tobytes())).view(size[1], size[0], 3).permute(2, 0, 1)
    theirs_bytes = theirs[0].mul(255).round()
    assert theirs_bytes.std() > 5
    assert (ours - theirs_bytes).abs().max() <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_every_tensor_comes_back(pair_of: GetPair, tmp_path: Path, seed: int) -> None:
    pair, out = pair_of(seed), tmp_path / "export"
    export(str(pair.folder), out)
    assert_whole(out)
    for component in CLASSES:
        before, after = tensors(pair.folder / component), tensors(out / component)
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert after[name].shape == tensor.shape
            if component == "vae" and tensor.ndim == 5 and "time_conv" not in name:
                # A single frame never meets the earlier slices; they are not kept.
                assert torch.equal(after[name][:, :, -1], tensor[:, :, -1]), name
                assert not after[name][:, :, :-1].any(), name
            else:
                assert torch.equal(after[name], tensor), name


@pytest.mark.parametrize("seed", SEEDS)
def test_settings_come_back(pair_of: GetPair, tmp_path: Path, seed: int) -> None:
    pair, out = pair_of(seed), tmp_path / "export"
    export(str(pair.folder), out)
    settings = [p for p in pair.folder.rglob("*.json") if not p.name.endswith(".index.json")]
    assert len(settings) >= 7
    for path in settings:
        copy = out / path.relative_to(pair.folder)
        assert json.loads(copy.read_text("utf-8")) == json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("seed", SEEDS)
def test_diffusers_paints_the_same_picture(pair_of: GetPair, tmp_path: Path, seed: int) -> None:
    pair, out = pair_of(seed), tmp_path / "export"
    export(str(pair.folder), out)
    request = Request(
        "a red fox, 一只狐狸", negative="rain", seed=3, size=(80, 48), steps=3, guidance=4.0
    )
    assert_same_picture(pair.pipe, out, request)


def test_an_export_in_bfloat16(pair_of: GetPair, tmp_path: Path) -> None:
    out = tmp_path / "export"
    export(str(pair_of(4).folder), out, dtype="bfloat16")
    assert_whole(out)
    for component in CLASSES:
        assert {t.dtype for t in tensors(out / component).values()} == {torch.bfloat16}
    request = Request("a red fox", seed=3, size=(48, 64), steps=2, guidance=1.0)
    assert_same_picture(load(str(out), device="cpu"), out, request)


def test_what_a_single_frame_never_runs_is_made_up(pair_of: GetPair, tmp_path: Path) -> None:
    """A model trained by danqing has no convolutions over time; the published network has."""
    source, out = tmp_path / "source", tmp_path / "export"
    shutil.copytree(pair_of(4).folder, source)
    weights = source / "vae" / "diffusion_pytorch_model.safetensors"
    kept = {name: t for name, t in load_file(weights).items() if "time_conv" not in name}
    assert len(kept) < len(load_file(weights))
    save_file(kept, weights)
    export(str(source), out)
    assert_whole(out)
    request = Request("a red fox", seed=3, size=(48, 64), steps=2, guidance=1.0)
    assert_same_picture(load(str(source), device="cpu"), out, request)


@pytest.mark.parametrize("prompt", ["a red fox", "一只红色的狐狸"])
def test_diffusers_paints_the_embedded_model(tmp_path: Path, prompt: str) -> None:
    out = tmp_path / "export"
    export(str(find(EMBEDDED[0])), out)
    assert_whole(out)
    pipe = load(EMBEDDED[0], device="cpu")
    assert_same_picture(pipe, out, Request(prompt, seed=7, steps=6, guidance=4.0))
