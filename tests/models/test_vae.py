import math

import pytest
import torch
from torch import nn

from danqing.models.vae import VAE, Attention, Downsample, RMSNorm, VAEConfig
from tests import tiny

IMAGE = (1, 3, 32, 48)
CONFIGS = [
    {},
    {"dim_mult": (1, 2), "temperal_downsample": (True,)},
    {"num_res_blocks": 2, "z_dim": 4, "latents_mean": (0.0,) * 4, "latents_std": (1.0,) * 4},
    {"attn_scales": (0.5,)},
]


@pytest.fixture
def vae() -> VAE:
    return tiny.vae()


@pytest.mark.parametrize("values", CONFIGS, ids=str)
def test_shapes_follow_the_configuration(values: dict) -> None:
    vae = tiny.vae(**values)
    factor, z = vae.config.factor, vae.config.z_dim
    mean, logvar = vae.encode(tiny.draw(*IMAGE))
    assert mean.shape == logvar.shape == (1, z, 32 // factor, 48 // factor)
    assert vae.decode(mean).shape == IMAGE


def test_factor() -> None:
    assert VAEConfig().factor == 8
    assert VAEConfig(dim_mult=(1, 2)).factor == 2


def test_only_decode_clamps(vae: VAE) -> None:
    vae.decoder.conv_out.weight.mul_(100)
    raw = vae.decode_raw(tiny.draw(1, 16, 4, 4))
    assert raw.abs().max() > 2
    assert torch.equal(vae.decode(tiny.draw(1, 16, 4, 4)), raw.clamp(-1, 1))


def test_the_log_variance_is_clamped(vae: VAE) -> None:
    vae.quant_conv.weight.mul_(1000)
    mean, logvar = vae.encode(tiny.draw(*IMAGE))
    assert (logvar.min(), logvar.max()) == (-30, 20)
    assert mean.abs().max() > 30


def test_normalising_inverts_per_channel(vae: VAE) -> None:
    latent = tiny.draw(1, 16, 3, 5)
    torch.testing.assert_close(vae.denormalise(vae.normalise(latent)), latent)
    mean, std = vae.config.latents_mean[3], vae.config.latents_std[3]
    torch.testing.assert_close(vae.normalise(latent)[:, 3], (latent[:, 3] - mean) / std)


def test_normalising_is_done_in_float32(vae: VAE) -> None:
    latent = tiny.draw(1, 16, 3, 5, dtype=torch.bfloat16)
    assert torch.equal(vae.normalise(latent), vae.normalise(latent.float()))


def test_images_of_a_batch_do_not_meet(vae: VAE) -> None:
    latents = tiny.draw(2, 16, 4, 6)
    both = vae.decode_raw(latents)
    torch.testing.assert_close(both[1:], vae.decode_raw(latents[1:]), atol=1e-5, rtol=0)


def test_downsampling_pads_below_and_to_the_right() -> None:
    down = Downsample(1).requires_grad_(False)
    nn.init.zeros_(down.resample[1].bias)
    nn.init.zeros_(down.resample[1].weight)[0, 0, 0, 0] = 1
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(down(x), x[..., ::2, ::2])


def test_the_norm_is_over_the_channels() -> None:
    norm, x = RMSNorm(4), tiny.draw(2, 4, 3, 3)
    root = x.square().mean(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(norm(x), x / root)
    assert norm(torch.zeros_like(x)).abs().max() == 0


def test_attention_reaches_every_position() -> None:
    attention = tiny.seeded(lambda: Attention(16))
    x = tiny.draw(1, 16, 4, 4)
    moved = x.clone()
    moved[..., 3, 3] += 5
    assert not torch.allclose(attention(x)[..., 0, 0], attention(moved)[..., 0, 0])


def test_nan_comes_through(vae: VAE) -> None:
    """The engine finds broken weights by what is not finite in the picture."""
    vae.decoder.mid_block.resnets[0].conv1.weight[0, 0, 1, 1] = math.nan
    assert vae.decode(tiny.draw(1, 16, 4, 4)).isnan().all()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    "size",
    [
        (5, 3),
        (16, 16),
        (20, 12),
    ],
)
def test_bits_do_not_depend_on_the_threads(vae: VAE, size: tuple[int, int]) -> None:
    """Sizes on both sides of the one where torch takes another kernel for 1 x 1 convolutions."""
    latent, found = tiny.draw(1, 16, *size), {}
    for count in (1, 2, 3, 5, 7):
        torch.set_num_threads(count)
        image = vae.decode_raw(latent)
        found[count] = torch.cat([image.flatten(), vae.encode(image)[0].flatten()])
    assert [count for count in found if not torch.equal(found[count], found[1])] == []


def test_published_parameters() -> None:
    """Of the published 126,892,531, what a single frame uses."""
    with torch.device("meta"):
        vae = VAE(VAEConfig())
    shapes = [p.shape for p in vae.parameters()]
    cubes = sum(math.prod(s) for s in shapes if len(s) == 4 and s[-1] == 3)
    flat = sum(
        math.prod(m[1].weight.shape) for n, m in vae.named_modules() if n.endswith(".resample")
    )
    times = sum(c * o * 3 + o for c, o in [(192, 192), (384, 384), (384, 768), (384, 768)])
    total = sum(math.prod(s) for s in shapes) + 2 * (cubes - flat) + times
    assert total == 126_892_531
