"""What the oracle says: its networks and its pipeline, called one image at a time."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from torch import Tensor


@torch.no_grad()
def velocity(
    network: QwenImageTransformer2DModel,
    patches: Tensor,
    text: Tensor,
    grid: tuple[int, int],
    sigma: float,
    **conditions: Tensor,
) -> Tensor:
    """[P, C] for one image of ``grid`` (rows, columns) and its unpadded text features."""
    return network(
        hidden_states=patches[None],
        encoder_hidden_states=text[None],
        timestep=torch.tensor([sigma]),
        img_shapes=[[(1, *grid)]],
        return_dict=False,
        **conditions,
    )[0][0]


@torch.no_grad()
def moments(vae: AutoencoderKLQwenImage, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance, without the axis of time."""
    # Its own ``encode`` passes arguments to the blocks of ``attn_scales`` that they do not take
    # (see test_oracle_wrong), so the network is called as ``encode`` does for one frame.
    both = vae.quant_conv(vae.encoder(image_BCHW[:, :, None]))[:, :, 0]
    mean, logvar = both.chunk(2, dim=1)
    return mean, logvar.clamp(-30.0, 20.0)


@torch.no_grad()
def decoded(vae: AutoencoderKLQwenImage, latent_BCYX: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] of raw latents."""
    return vae.decode(latent_BCYX[:, :, None]).sample[:, :, 0]


def raw_latent(vae: AutoencoderKLQwenImage, latent_BCYX: Tensor) -> Tensor:
    """Out of the transformer's space, with the pipeline's own expression."""
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1).to(latent_BCYX.dtype)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return latent_BCYX / (1.0 / std) + mean


@torch.no_grad()
def features(pipeline: QwenImagePipeline, prompts: list[str]) -> list[Tensor]:
    """Text features of a batch of prompts, cut to each prompt's own length."""
    embeds, mask = pipeline.encode_prompt(prompts)
    lengths = [embeds.shape[1]] * len(prompts) if mask is None else mask.sum(dim=1).tolist()
    return [row[:length] for row, length in zip(embeds, lengths, strict=True)]


def with_schedule(pipeline: QwenImagePipeline, **changes: Any) -> QwenImagePipeline:
    """The same networks under another schedule."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config, **changes)
    changed = QwenImagePipeline(**{**pipeline.components, "scheduler": scheduler})
    changed.set_progress_bar_config(disable=True)
    return changed


def paint(
    pipeline: QwenImagePipeline,
    prompts: list[str],
    noise: list[Tensor],
    *,
    size: tuple[int, int],
    steps: int,
    **options: Any,
) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] from starting noise [C, Y, X] each."""
    width, height = size
    return pipeline(
        prompt=prompts,
        latents=torch.cat([pipeline._pack_latents(n, 1, *n.shape) for n in noise]),
        width=width,
        height=height,
        num_inference_steps=steps,
        output_type="pt",
        **options,
    ).images
