"""A few-step adapter that danqing distilled paints the same pictures in diffusers' own pipeline."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import QwenImagePipeline

from danqing.adapters import formats
from danqing.adapters import write as writing
from danqing.engine import load
from danqing.sampling import latents
from danqing.training.distill import run
from danqing.training.distill.settings import DistillSettings, read
from danqing.types import Request
from danqing.weights.export import export
from danqing.weights.hub import EMBEDDED, find

from . import reference
from .compare import PICTURES, assert_close
from .random_models import Pair
from .test_components import GetPair

CPU = torch.device("cpu")
PROMPTS = ["two foxes on a hill, 一只猫 by the sea", "一只狐狸"]
SIZE = (80, 48)
LEVELS = {2: (1.0, 0.6, 0.0), 3: (1.0, 0.8, 0.4, 0.0)}


def distilled(pair: Pair, folder: Path, **values: object) -> DistillSettings:
    (folder / "prompts.txt").write_text("\n".join(PROMPTS), "utf-8")
    few = {"trajectories": 4, "held_out": 1, "imitation": 6, "fake_start": 2, "matching": 3}
    learnt = {"rank": 4, "fake_rank": 4, "batch": 2, "rate": 3e-2, "teacher_steps": 6, **few}
    places = {"model": str(pair.folder), "out": str(folder / "fast.safetensors")}
    own = {**learnt, **places, "prompts_file": str(folder / "prompts.txt"), "sizes": ["80x48"]}
    settings = read(None, {**own, "guidance": 3.0, "save_dtype": "float32", **values})
    list(run.distill(settings, CPU))
    return settings


def taking_levels(pipeline: QwenImagePipeline) -> QwenImagePipeline:
    """Its scheduler takes levels as they are when its own shift is switched off."""
    return reference.with_schedule(
        pipeline, use_dynamic_shifting=False, shift=1.0, shift_terminal=None
    )


def diffusers_with(pair: Pair, files: list[Path]) -> QwenImagePipeline:
    plain, network = taking_levels(pair.oracle), deepcopy(pair.oracle.transformer)
    pipeline = QwenImagePipeline(**{**plain.components, "transformer": network})
    pipeline.set_progress_bar_config(disable=True)
    for file in files:
        pipeline.load_lora_weights(file, adapter_name=file.stem)
    pipeline.set_adapters([file.stem for file in files])
    return pipeline


def assert_same(pair: Pair, files: list[Path], levels: tuple[float, ...]) -> None:
    noise = [pair.pipe.noise(seed, SIZE) for seed in (3, 4)]
    text = pair.pipe.encode(PROMPTS)
    adapters = {str(file): 1.0 for file in files}
    ours = pair.pipe.denoise(text, noise, levels, adapters=adapters)
    found = torch.stack([latents.pack(own) for own in ours])
    width, height = SIZE
    theirs = diffusers_with(pair, files)(
        prompt=PROMPTS,
        latents=torch.stack([latents.pack(own) for own in noise]),
        width=width,
        height=height,
        sigmas=list(levels[:-1]),
        num_inference_steps=len(levels) - 1,
        true_cfg_scale=1.0,
        output_type="latent",
    ).images
    plain = pair.pipe.denoise(text, noise, levels)
    assert (found - torch.stack([latents.pack(own) for own in plain])).std() > 0.02
    assert_close(found, theirs, PICTURES)


@pytest.mark.parametrize("naming", ["diffusers", "comfyui"])
def test_the_latents_are_the_same(pair_of: GetPair, tmp_path: Path, naming: str) -> None:
    pair = pair_of(3)
    own = distilled(pair, tmp_path, steps=2, also=[3], naming=naming)
    made = formats.read(Path(own.out)).sampling
    assert made is not None
    for steps in (2, 3):
        levels = made.levels(steps)
        assert levels is not None
        assert_same(pair, [Path(own.out)], levels)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # that is what is wanted
def test_with_the_users_own_adapter_beside_it(pair_of: GetPair, tmp_path: Path) -> None:
    pair = pair_of(3)
    first = distilled(pair, tmp_path, steps=2, nodes=LEVELS[2][:-1])
    style = tmp_path / "style.safetensors"
    writing.write(replace(formats.read(Path(first.out)), sampling=None), style, "diffusers")
    second = tmp_path / "second"
    second.mkdir()
    own = distilled(pair, second, steps=3, nodes=LEVELS[3][:-1], adapters=[str(style)], seed=5)
    assert_same(pair, [style, Path(own.out)], LEVELS[3])


@pytest.mark.parametrize(("name", "steps"), [("lightning-4", 4), ("lightning-8", 8)])
def test_minis_own_paints_the_same_picture(tmp_path: Path, name: str, steps: int) -> None:
    """<= 1/255 a pixel from the same noise, with the levels that the file tells."""
    export(str(find(EMBEDDED[0])), tmp_path / "mini")
    pipe = load(EMBEDDED[0], device="cpu")
    result = pipe.generate(Request("一只红色的狐狸", seed=7, adapters={name: 1.0}))
    size, sigmas = result.request.size, result.request.sigmas
    assert size is not None
    assert sigmas is not None
    assert len(sigmas) == steps + 1
    assert result.request.guidance == 1
    plain = QwenImagePipeline.from_pretrained(tmp_path / "mini", dtype=torch.float32)
    oracle = taking_levels(plain)
    oracle.load_lora_weights(pipe.model.folder / "adapters" / f"{name}.safetensors")
    theirs = reference.paint(
        oracle,
        [result.request.prompt],
        [pipe.noise(7, size)],
        size=size,
        steps=steps,
        sigmas=list(sigmas[:-1]),
        true_cfg_scale=1.0,
    )
    ours = torch.tensor(list(result.image.tobytes())).view(size[1], size[0], 3).permute(2, 0, 1)
    assert (ours - theirs[0].mul(255).round()).abs().max() <= 1
