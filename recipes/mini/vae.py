"""Stage `vae`: train danqing's own VAE on rendered pictures, and measure it on held-out ones.

Loss: L1 on pixels and on their gradients (edges are what a drawing is made of), and a small KL
term that keeps the latents smooth. The latents' mean and deviation per channel are measured at
every save and go into the model's configuration, as in the published file.
"""

import re
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from danqing.models.vae import VAE, VAEConfig
from recipes.mini.art import load_bank
from recipes.mini.compose import Size
from recipes.mini.config import Config, DataConfig, VAEStage, frozen
from recipes.mini.crops import SIDE, Crops
from recipes.mini.files import read_json, write_json
from recipes.mini.loop import (
    Average,
    Budget,
    Stateful,
    has_bfloat16,
    train,
)
from recipes.mini.optimisers import Optimisers
from recipes.mini.stream import Stream, batches

FILES = ("vae.safetensors", "config.json")
HELD_PICTURES = 24  # of each size, for the PSNR
SHEET_SCALE = 2
# What a VAE that halves once more takes over.
OUTER = ("encoder.conv_in.", "encoder.down_blocks.", "decoder.up_blocks.", "decoder.norm_out.",
         "decoder.conv_out.")  # fmt: skip


def run(config: Config, runs: Path, minutes: float | None) -> None:
    """The outer VAE, the whole one, then its decoder alone, in the minutes that there are."""
    stage, folder = config.vae, runs / "vae"
    data = replace(config.data, styles=stage.styles)
    load_bank(replace(config, data=data), runs)
    outer = replace(
        stage,
        dim_mult=stage.dim_mult[:-1],
        z_dim=stage.outer_z_dim,
        pictures=stage.outer_pictures,
    )
    decoder = replace(stage, pictures=stage.decoder_pictures)
    started = time.monotonic()

    def done(stage: VAEStage, name: str, vae: VAE) -> bool:
        left = None if minutes is None else minutes - (time.monotonic() - started) / 60
        return learn(stage, data, runs, folder / name, left, vae)

    if done(outer, "outer", build(outer)) and done(stage, "whole", grown(stage, folder / "outer")):
        done(decoder, "decoder", with_still_encoder(folder / "whole"))
        for name in FILES:  # for the next stages: whatever the decoder has learnt by now
            shutil.copyfile(folder / "decoder" / name, folder / name)


def learn(
    stage: VAEStage, data: DataConfig, runs: Path, folder: Path, minutes: float | None, vae: VAE
) -> bool:
    """Whether all of the training is done."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = vae.to(device)
    average = Average(vae, stage.ema)
    optimisers = Optimisers(vae, is_inside, stage)
    budget = Budget(stage.pictures, stage.batch, minutes)
    steps = Crops(Stream(data, runs, "train"), data.sizes, stage)
    held = held_pictures(Stream(data, runs, "held"), data.sizes)
    source = None

    def step_fn(step: int) -> float:
        nonlocal source
        source = source or batches(steps, step, budget.steps, device)
        image = to_float(next(source).to(device, non_blocking=True))
        noise = torch.Generator().manual_seed(stage.seed * 2**32 + step)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device)):
            loss = vae_loss(vae, image, noise, stage)
        optimisers.step(loss, step, budget.steps)
        average.update(step)
        return loss.item()

    shadow = build(stage).to(device)

    def on_save(step: int) -> None:
        shadow.load_state_dict(average.shadow)
        report(shadow, held, folder, step * stage.batch)
        publish(shadow, steps, folder)

    parts: dict[str, Stateful] = {"vae": vae, "optimisers": optimisers, "average": average}
    return train(parts, step_fn, budget, folder, on_save) == budget.steps


def grown(stage: VAEStage, outer: Path) -> VAE:
    """Between the pixels and its innermost level it begins as the outer VAE: by itself it learns
    half as fast (LOG.md)."""
    vae, own = build(stage), {}
    state = vae.state_dict()
    for name, tensor in load_file(outer / "vae.safetensors").items():
        name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up_blocks.{int(found[1]) + 1}", name)
        if name.startswith(OUTER) and state[name].shape == tensor.shape:
            own[name] = tensor
    vae.load_state_dict(state | own)
    return vae


def with_still_encoder(folder: Path) -> VAE:
    vae = load(folder)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    return vae


def load(folder: Path) -> VAE:
    weights, config = (folder / name for name in FILES)
    if not weights.exists():
        raise FileNotFoundError(f"{weights} is missing; run the stage `vae` to its decoder first")
    own: dict[str, Any] = {k: frozen(v) for k, v in read_json(config).items()}
    vae = VAE(VAEConfig(**own))
    vae.load_state_dict(load_file(weights))
    return vae


def build(stage: VAEStage) -> VAE:
    torch.manual_seed(stage.seed)
    return VAE(
        VAEConfig(
            base_dim=stage.base_dim,
            z_dim=stage.z_dim,
            dim_mult=stage.dim_mult,
            num_res_blocks=stage.num_res_blocks,
            temperal_downsample=(False, *(True,) * (len(stage.dim_mult) - 2)),
            latents_mean=(0.0,) * stage.z_dim,
            latents_std=(1.0,) * stage.z_dim,
        )
    )


def is_inside(name: str) -> bool:
    """Kernels and matrices, but for the two layers at the pixels."""
    return name.endswith("weight") and not name.startswith(
        ("encoder.conv_in.", "decoder.conv_out.")
    )


def vae_loss(vae: VAE, image: Tensor, noise: torch.Generator, stage: VAEStage) -> Tensor:
    mean, logvar = (moment.float() for moment in vae.encode(image))
    sample = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=noise).to(mean)
    output = vae.decode_raw(sample).float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
    edges = sum((d(output) - d(image)).abs().mean() for d in (rows, columns))
    return (output - image).abs().mean() + stage.gradient_weight * edges + stage.kl_weight * kl


def rows(x: Tensor) -> Tensor:
    return x[:, :, 1:] - x[:, :, :-1]


def columns(x: Tensor) -> Tensor:
    return x[..., 1:] - x[..., :-1]


def to_float(images: Tensor) -> Tensor:
    """uint8 [n, H, W, 3] -> float32 [n, 3, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()


def to_bytes(images: Tensor) -> np.ndarray:
    """The inverse of ``to_float``."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def held_pictures(stream: Stream, sizes: tuple[Size, ...]) -> dict[Size, np.ndarray]:
    return {
        size: np.stack([stream.picture(i, size).image for i in range(HELD_PICTURES)])
        for size in ((SIDE, SIDE), *sizes)
    }


@torch.no_grad()
def report(vae: VAE, held: dict[Size, np.ndarray], folder: Path, pictures: int) -> dict[str, float]:
    """PSNR on held-out renders of each size, and a sheet of renders above their reconstructions."""
    device = next(vae.parameters()).device
    found = {}
    for size, images in held.items():
        output = to_bytes(vae.decode(vae.encode(to_float(torch.from_numpy(images)).to(device))[0]))
        found[f"{size[0]}x{size[1]}"] = round(psnr(images, output), 2)
        write_sheet(images, output, folder / f"sheet-{size[0]}x{size[1]}.png")
    told = "  ".join(f"{size} {value:.2f} dB" for size, value in found.items())
    print(f"vae: {pictures} pictures, PSNR on held-out renders: {told}", flush=True)
    return found


def psnr(images: np.ndarray, output: np.ndarray) -> float:
    """The mean over the pictures."""
    error = ((output.astype(np.float64) - images) ** 2).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-3))))


def write_sheet(images: np.ndarray, output: np.ndarray, path: Path, columns: int = 8) -> None:
    pairs = np.concatenate([images, output], axis=1)
    rows = [np.concatenate(pairs[i : i + columns], axis=1) for i in range(0, len(pairs), columns)]
    sheet = Image.fromarray(np.concatenate([row for row in rows if row.shape == rows[0].shape]))
    size = (sheet.width * SHEET_SCALE, sheet.height * SHEET_SCALE)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize(size, Image.Resampling.NEAREST).save(path)


@torch.no_grad()
def publish(vae: VAE, steps: Crops, folder: Path) -> None:
    """The network, with what its latents measure on training pictures."""
    device = next(vae.parameters()).device
    moments = [vae.encode(to_float(steps[n]).to(device)) for n in range(8)]
    mean, logvar = (
        torch.cat([m[i].transpose(0, 1).flatten(1) for m in moments], 1) for i in (0, 1)
    )
    centre = mean.mean(dim=1)
    spread = ((mean.square() + logvar.exp()).mean(dim=1) - centre.square()).sqrt()
    config = replace(
        vae.config,
        latents_mean=tuple(centre.tolist()),
        latents_std=tuple(spread.tolist()),
    )
    save_file(
        {k: v.contiguous().cpu() for k, v in vae.state_dict().items()}, folder / "vae.safetensors"
    )
    write_json(folder / "config.json", asdict(config))
