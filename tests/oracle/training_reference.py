"""A peer's training: diffusers' network with PEFT's adapter in a plain loop, a picture at a time.

The loss is the one of diffusers' own script for adapters of Qwen-Image
(examples/dreambooth/train_dreambooth_lora_qwen_image.py); nothing here is danqing's.
Axes: C channels of a latent, Y X its rows and columns, L text tokens, J their width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_loss_weighting_for_sd3
from peft import LoraConfig
from torch import Tensor, nn

PADDING = 3  # tokens of noise behind every caption, which the mask must hide
FACTOR = 8  # pixels of a latent's side


@dataclass(frozen=True)
class Shown:
    """A picture as it is learnt from: clean and noise [C, Y, X], text [L, J]."""

    clean: Tensor
    noise: Tensor
    text: Tensor
    sigma: float
    weight: float = 1.0


@dataclass(frozen=True)
class Loss:
    """What is summed: the script's name of a weighting, and how much the base's answer counts."""

    weighting: str = "none"
    prior: float = 0.0
    prior_text: Tensor | None = None


def open_network(folder: Path) -> QwenImageTransformer2DModel:
    network = QwenImageTransformer2DModel.from_pretrained(folder / "transformer")
    return network.requires_grad_(False).train()


def add_adapter(
    network: QwenImageTransformer2DModel, layers: Sequence[str], **config: Any
) -> dict[str, nn.Parameter]:
    """What is trained of it, by PEFT's names."""
    network.add_adapter(LoraConfig(target_modules=list(layers), **config))
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


# ---- the loss ---------------------------------------------------------------------------------


def predicted(network: QwenImageTransformer2DModel, shown: Shown, text: Tensor) -> Tensor:
    """Velocity [C, Y, X]."""
    channels, height, width = shown.clean.shape
    noisy = (1.0 - shown.sigma) * shown.clean + shown.sigma * shown.noise
    padding = torch.randn(PADDING, text.shape[1], generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * len(text) + [0] * PADDING])
    packed = network(
        hidden_states=QwenImagePipeline._pack_latents(noisy[None], 1, channels, height, width),
        encoder_hidden_states=torch.cat([text, padding])[None],
        encoder_hidden_states_mask=mask,
        timestep=torch.tensor([shown.sigma]),
        img_shapes=[[(1, height // 2, width // 2)]],
        return_dict=False,
    )[0]
    pixels = FACTOR * height, FACTOR * width
    return QwenImagePipeline._unpack_latents(packed, *pixels, FACTOR)[0, :, 0]


def picture_loss(network: QwenImageTransformer2DModel, shown: Shown, loss: Loss) -> Tensor:
    found = predicted(network, shown, shown.text)
    weight = compute_loss_weighting_for_sd3(loss.weighting, torch.tensor(shown.sigma))
    return shown.weight * torch.mean(weight * (found - (shown.noise - shown.clean)) ** 2)


def prior_loss(network: QwenImageTransformer2DModel, shown: Shown, loss: Loss) -> Tensor:
    """How far the adapter moves the answer to another prompt."""
    assert loss.prior_text is not None
    network.disable_adapters()
    with torch.no_grad():
        base = predicted(network, shown, loss.prior_text)
    network.enable_adapters()
    moved = torch.mean((predicted(network, shown, loss.prior_text) - base) ** 2)
    return loss.prior * shown.weight * moved


def backward(
    network: QwenImageTransformer2DModel, pictures: Sequence[Shown], loss: Loss
) -> tuple[float, float]:
    """Gradients of the mean over the pictures, and that mean in its two parts."""
    own = prior = 0.0
    for shown in pictures:
        found = picture_loss(network, shown, loss)
        (found / len(pictures)).backward()
        own += found.item() / len(pictures)
        if loss.prior:
            moved = prior_loss(network, shown, loss)
            (moved / len(pictures)).backward()
            prior += moved.item() / len(pictures)
    return own, prior


# ---- the steps --------------------------------------------------------------------------------


def train(
    network: QwenImageTransformer2DModel,
    parameters: Iterable[nn.Parameter],
    steps: Sequence[Sequence[Shown]],
    *,
    rates: Sequence[float],
    weight_decay: float,
    clip: float,
    loss: Loss,
) -> list[tuple[float, float]]:
    """The loss of each step, and its gradient's norm."""
    trained, curve = list(parameters), []
    optimiser = torch.optim.AdamW(trained, lr=0.0, weight_decay=weight_decay)
    for pictures, rate in zip(steps, rates, strict=True):
        optimiser.zero_grad()
        own, prior = backward(network, pictures, loss)
        norm = nn.utils.clip_grad_norm_(trained, clip)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        curve.append((own + prior, norm.item()))
    return curve


def scheduled(name: str, peak: float, steps: int, warm_up: int) -> list[float]:
    """The rate of each step and of the one after the last, as diffusers' schedules have it."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = get_scheduler(name, optimiser, num_warmup_steps=warm_up, num_training_steps=steps)
    rates = []
    for _ in range(steps + 1):
        rates.append(float(schedule.get_last_lr()[0]))
        optimiser.step()
        schedule.step()
    return rates
