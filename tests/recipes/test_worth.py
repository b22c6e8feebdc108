"""Channels of the latents that change no pixel weigh next to nothing in the loss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from danqing.models.vae import VAE, VAEConfig
from danqing.sampling import latents
from recipes.mini import worth

EVEN = 0.2


class Noise:
    """A stream of pictures without things."""

    def picture(self, number: int, size: tuple[int, int]) -> SimpleNamespace:
        rng = np.random.default_rng(number)
        return SimpleNamespace(image=rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    config = VAEConfig(
        base_dim=8,
        z_dim=4,
        dim_mult=(1, 2),
        num_res_blocks=1,
        temperal_downsample=(False,),
        latents_mean=(0.0,) * 4,
        latents_std=(1.0,) * 4,
    )
    return VAE(config).eval()


def silence(vae: VAE, channel: int) -> None:
    """The decoder does not hear this one."""
    with torch.no_grad():
        vae.post_quant_conv.weight[:, channel] = 0


def test_what_changes_no_pixel_has_the_even_share_only(vae: VAE) -> None:
    silence(vae, 2)
    found = worth.worth(vae, Noise(), (16, 16), EVEN)
    assert found.shape == (4,)
    assert found[2].item() == pytest.approx(EVEN, abs=1e-6)
    assert min(found[channel].item() for channel in (0, 1, 3)) > EVEN
    assert found.mean().item() == pytest.approx(1.0, abs=1e-5)


def test_an_even_loss_is_a_plain_mean(vae: VAE) -> None:
    silence(vae, 2)
    assert torch.equal(worth.worth(vae, Noise(), (16, 16), 1.0), torch.ones(4))


def test_numbers_of_a_token_stand_as_they_are_packed() -> None:
    own = torch.tensor([1.0, 2.0, 3.0])
    packed = latents.pack(own[:, None, None].expand(-1, 4, 6))
    assert torch.equal(worth.of_tokens(own).expand_as(packed), packed)
