"""What each channel of the latents is worth: how much the pixels change when it is a little off.

Normalised channels all have the same size, but some carry shapes and others next to nothing, down
to those that the VAE's KL term has emptied. In a plain mean over channels the loss is mostly noise
that nobody sees.
"""

import numpy as np
import torch
from torch import Tensor

from danqing.models.vae import VAE
from danqing.sampling import latents
from recipes.mini.compose import Size
from recipes.mini.stream import Stream
from recipes.mini.vae import to_float

PICTURES = 16
OFF = 0.3  # of a channel's own deviation


@torch.no_grad()
def worth(vae: VAE, stream: Stream, size: Size, even: float) -> Tensor:
    """[C], mean 1. ``even``: the share that all get alike; with 1 the loss is a plain mean."""
    device = vae.quant_conv.weight.device
    images = np.stack([stream.picture(number, size).image for number in range(PICTURES)])
    clean = vae.normalise(vae.encode(to_float(torch.from_numpy(images)).to(device))[0])
    whole = vae.decode(vae.denormalise(clean))
    noise = torch.randn(clean[:, 0].shape, generator=torch.Generator().manual_seed(0)).to(device)
    changes = torch.empty(clean.shape[1], device=device)
    for channel in range(len(changes)):
        moved = clean.clone()
        moved[:, channel] += OFF * noise
        changes[channel] = (vae.decode(vae.denormalise(moved)) - whole).square().mean()
    return even + (1 - even) * changes / changes.mean()


def of_tokens(worth_C: Tensor) -> Tensor:
    """For the numbers of a token, in their order: [1, patch * patch * C]."""
    side = latents.PATCH
    return latents.pack(worth_C[:, None, None].expand(-1, side, side))
