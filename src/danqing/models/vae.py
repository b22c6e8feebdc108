"""The latent VAE of Qwen-Image for single images, written in two dimensions.

The published network (AutoencoderKLQwenImage, the Wan 2.1 video VAE) is causal in time. For one
frame only the last temporal slice of every kernel meets data and no ``time_conv`` runs, so the
convolutions reduce exactly to 2-D ones. ``weights/vae_fold.py`` folds and unfolds the tensors.

Module names are the names in the published file. Axes: B images, C channels, H W pixels,
Y X latent rows and columns (H/8, W/8).
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.models.activations import silu
from danqing.models.linear import linear

# Per-channel statistics of the published latents (also the defaults of the reference class).
PUBLISHED_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
PUBLISHED_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True)
class VAEConfig:
    """The published ``vae/config.json``; the defaults are Qwen-Image's."""

    base_dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True)  # the published spelling
    latents_mean: tuple[float, ...] = PUBLISHED_MEAN
    latents_std: tuple[float, ...] = PUBLISHED_STD

    @property
    def factor(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** (len(self.dim_mult) - 1)


class VAE(nn.Module):
    """Encoder and decoder between images in [-1, 1] and raw (not normalised) latents."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        z = config.z_dim
        self.encoder = Encoder(config)
        self.quant_conv = Conv1(2 * z, 2 * z)
        self.post_quant_conv = Conv1(z, z)
        self.decoder = Decoder(config)

    def encode(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each [B, z_dim, H/f, W/f]; f (``factor``) divides H and W."""
        return split_moments(self.encode_raw(image_BCHW))

    def encode_raw(self, image_BCHW: Tensor) -> Tensor:
        """Mean and log-variance as one tensor, the latter not yet clamped; tiles need it."""
        return self.quant_conv(self.encoder(image_BCHW))

    def decode(self, latent_BCYX: Tensor) -> Tensor:
        """The image, [B, 3, f Y, f X], clamped to [-1, 1]."""
        return self.decode_raw(latent_BCYX).clamp(-1.0, 1.0)

    def decode_raw(self, latent_BCYX: Tensor) -> Tensor:
        """The decoder's own output, before the clamp; losses and tiles need it."""
        return self.decoder(self.post_quant_conv(latent_BCYX))

    def normalise(self, latent_BCYX: Tensor) -> Tensor:
        """Raw latent to the transformer's space, in float32."""
        mean, std = self._statistics(latent_BCYX)
        return (latent_BCYX.float() - mean) / std

    def denormalise(self, latent_BCYX: Tensor) -> Tensor:
        """The transformer's space to a raw latent, in float32."""
        mean, std = self._statistics(latent_BCYX)
        return latent_BCYX.float() * std + mean

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, 1, 1)
        mean = torch.tensor(self.config.latents_mean, device=like.device).view(shape)
        return mean, torch.tensor(self.config.latents_std, device=like.device).view(shape)


class Encoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.base_dim * m for m in (1, *config.dim_mult)]
        self.conv_in = conv3(3, widths[0])
        self.down_blocks = nn.ModuleList()  # flat, as published
        scale, last = 1.0, len(config.dim_mult) - 1
        for i, (width_in, width) in enumerate(pairwise(widths)):
            for j in range(config.num_res_blocks):
                self.down_blocks.append(ResBlock(width if j else width_in, width))
                if scale in config.attn_scales:
                    self.down_blocks.append(Attention(width))
            if i != last:
                self.down_blocks.append(Downsample(width))
                scale /= 2
        self.mid_block = MidBlock(width)
        self.norm_out = RMSNorm(width)
        self.conv_out = conv3(width, 2 * config.z_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(silu(self.norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        mults = config.dim_mult[::-1]
        widths = [config.base_dim * m for m in (mults[0], *mults)]
        last = len(mults) - 1
        self.conv_in = conv3(config.z_dim, widths[0])
        self.mid_block = MidBlock(widths[0])
        self.up_blocks = nn.ModuleList()
        for i, (width_in, width) in enumerate(pairwise(widths)):
            # The upsampler before block i > 0 has halved the channels.
            width_in = width_in // 2 if i else width_in
            self.up_blocks.append(
                UpBlock(width_in, width, config.num_res_blocks + 1, upsample=i != last)
            )
        self.norm_out = RMSNorm(width)
        self.conv_out = conv3(width, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(silu(self.norm_out(x)))


class MidBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(width)])
        self.resnets = nn.ModuleList([ResBlock(width, width), ResBlock(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class UpBlock(nn.Module):
    def __init__(self, width_in: int, width: int, num_res_blocks: int, upsample: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResBlock(width if j else width_in, width) for j in range(num_res_blocks)
        )
        self.upsamplers = nn.ModuleList([Upsample(width)] if upsample else [])

    def forward(self, x: Tensor) -> Tensor:
        for block in (*self.resnets, *self.upsamplers):
            x = block(x)
        return x


class ResBlock(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width_in)
        self.conv1 = conv3(width_in, width)
        self.norm2 = RMSNorm(width)
        self.conv2 = conv3(width, width)
        self.conv_shortcut = Conv1(width_in, width) if width_in != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        return self.conv2(silu(self.norm2(h))) + self.conv_shortcut(x)


class Attention(nn.Module):
    """One head over all positions of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.to_qkv = Conv1(width, 3 * width)
        self.proj = Conv1(width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        qkv = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1)
        q, k, v = qkv.contiguous().chunk(3, dim=-1)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(h.squeeze(1).transpose(1, 2).unflatten(2, (rows, columns)))


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.resample = nn.Sequential(pad, nn.Conv2d(width, width, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        double = nn.Upsample(scale_factor=2, mode="nearest-exact")
        self.resample = nn.Sequential(double, conv3(width, width // 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(x)


class Conv1(nn.Conv2d):
    """A 1 x 1 convolution as a matrix product over positions.

    The CPU library splits such convolutions over their input channels once they are large, and so
    their bits depend on the number of threads; those of ``linear`` do not.
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        positions = x.permute(0, 2, 3, 1).flatten(0, 2)
        out = linear(positions, self.weight.flatten(1), self.bias)
        return out.unflatten(0, (x.shape[0], *x.shape[2:])).permute(0, 3, 1, 2).contiguous()


class RMSNorm(nn.Module):
    """L2-normalise over the channels, times sqrt(C) and a learned gain; float32 inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        # F.normalize says the same; its norm over a strided axis is slow, and its backward pass.
        x32 = x.float()
        norm = x32.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
        return (x32 / norm).to(x.dtype) * (x.shape[1] ** 0.5) * self.gamma


def split_moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    mean, logvar = moments.chunk(2, dim=1)
    return mean, logvar.clamp(-30.0, 20.0)


def conv3(width_in: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, padding=1)
