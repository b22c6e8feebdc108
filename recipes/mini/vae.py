"""Stage `vae`: train danqing's own VAE on the rendered pictures, then encode all of them once.

Loss: L1 on pixels and on their gradients (edges are what a drawing is made of), and a small KL
term that keeps the latents smooth. The latents' mean and deviation per channel are measured at
the end and go into the model's configuration, as in the published file.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from danqing.models.vae import VAE, VAEConfig
from recipes.mini.config import Config, VAEStage
from recipes.mini.files import write_json
from recipes.mini.loop import Average, Budget, learning_rate, set_learning_rate, train
from recipes.mini.shards import Pictures, load_pictures


def run(config: Config, runs: Path, minutes: float | None) -> None:
    stage = config.vae
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(stage.seed)
    pictures = load_pictures(runs / "data", "train")
    held = load_pictures(runs / "data", "held")
    vae = build(stage).to(device)
    average = Average(vae, stage.ema)
    optimiser = torch.optim.AdamW(
        vae.parameters(), lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    budget = Budget(stage.pictures, stage.batch, minutes)

    def step_fn(step: int) -> float:
        rng = np.random.default_rng((stage.seed, step))
        image = to_float(pictures.images[rng.integers(len(pictures), size=stage.batch)]).to(device)
        noise = torch.Generator().manual_seed(stage.seed * 2**32 + step)
        factor = learning_rate(step, budget.steps, stage.warm_up, stage.decay)
        set_learning_rate(optimiser, stage.learning_rate * factor)
        loss = vae_loss(vae, image, noise, stage)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        average.update(step)
        return loss.item()

    def on_save(step: int) -> None:
        shadow = build(stage).to(device)
        shadow.load_state_dict(average.shadow)
        report(shadow, held, runs / "vae", step * stage.batch)

    train(
        {"vae": vae, "optimiser": optimiser, "average": average},
        step_fn,
        budget,
        runs / "vae",
        on_save,
    )
    vae.load_state_dict(average.shadow)
    finish(vae, stage, pictures, runs)


def build(stage: VAEStage) -> VAE:
    return VAE(
        VAEConfig(
            base_dim=stage.base_dim,
            dim_mult=tuple(stage.dim_mult),
            num_res_blocks=stage.num_res_blocks,
            latents_mean=(0.0,) * 16,
            latents_std=(1.0,) * 16,
        )
    )


def vae_loss(vae: VAE, image: Tensor, noise: torch.Generator, stage: VAEStage) -> Tensor:
    mean, logvar = vae.encode(image)
    sample = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=noise).to(mean)
    output = vae.decode_raw(sample)
    kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
    edges = sum((d(output) - d(image)).abs().mean() for d in (rows, columns))
    return (output - image).abs().mean() + stage.gradient_weight * edges + stage.kl_weight * kl


def rows(x: Tensor) -> Tensor:
    return x[:, :, 1:] - x[:, :, :-1]


def columns(x: Tensor) -> Tensor:
    return x[..., 1:] - x[..., :-1]


def to_float(images: np.ndarray) -> Tensor:
    """uint8 [n, H, W, 3] -> float32 [n, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()


def to_bytes(images: Tensor) -> np.ndarray:
    """The inverse of ``to_float``."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def report(vae: VAE, held: Pictures, folder: Path, pictures: int) -> float:
    """PSNR on held-out renders, and a sheet of pairs (above: render, below: reconstruction)."""
    device = next(vae.parameters()).device
    picked = held.images[:: max(1, len(held) // 64)][:64]
    output = to_bytes(vae.decode(vae.encode(to_float(picked).to(device))[0]))
    error = ((output.astype(np.float64) - picked) ** 2).mean(axis=(1, 2, 3))
    psnr = float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-3))))
    print(f"vae: {pictures} pictures, PSNR {psnr:.2f} dB on held-out renders", flush=True)
    strip = [np.concatenate([picked[i], output[i]], axis=0) for i in range(min(48, len(picked)))]
    sheet = np.concatenate(
        [np.concatenate(strip[i : i + 16], axis=1) for i in range(0, len(strip) - 15, 16)]
    )
    Image.fromarray(sheet).resize((sheet.shape[1], sheet.shape[0])).save(folder / "sheet.png")
    return psnr


@torch.no_grad()
def finish(vae: VAE, stage: VAEStage, pictures: Pictures, runs: Path) -> None:
    """Encode every picture, measure the latents, save the network for the next stage."""
    from safetensors.torch import save_file

    device = next(vae.parameters()).device
    parts = [
        torch.cat(vae.encode(to_float(pictures.images[i : i + 64]).to(device)), dim=1).cpu()
        for i in range(0, len(pictures), 64)
    ]
    moments = torch.cat(parts)
    mean, logvar = moments.chunk(2, dim=1)
    second = (mean.square() + logvar.exp()).mean(dim=(0, 2, 3))
    centre = mean.mean(dim=(0, 2, 3))
    config = replace(
        vae.config,
        latents_mean=tuple(centre.tolist()),
        latents_std=tuple((second - centre.square()).sqrt().tolist()),
    )
    np.save(runs / "vae" / "moments.npy", moments.half().numpy())
    save_file(
        {k: v.contiguous().cpu() for k, v in vae.state_dict().items()},
        runs / "vae" / "vae.safetensors",
    )
    write_json(runs / "vae" / "config.json", asdict(config))
    spread = logvar.mul(0.5).exp().mean().item()
    print(f"vae: {len(moments)} pictures encoded, posterior deviation {spread:.3f}", flush=True)
