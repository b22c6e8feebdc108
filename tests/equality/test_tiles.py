"""Tiled within tolerance of untiled.

A tile does not see beyond its border, so the two differ by what the network brings from there.
Two tolerances follow. For a network that looks at its own position only there is nothing to bring,
and the difference is rounding: 1e-5. For a network with random weights, whose borders weigh more
than a trained one's, the root of the mean square was measured as 0.10 of the picture's own
standard deviation (0.03 of it for latents); 0.2 is allowed. A tile laid out at the wrong place, or
one that is not blended, lies above 1.
"""

import pytest
import torch
from torch import Tensor, nn

from danqing import Pipeline, engine
from danqing.models.tiling import cut, decode_tiled, encode_tiled, merge
from danqing.models.vae import VAE, Attention
from tests import tiny

LATENT = (1, 16, 36, 56)  # 288 x 448 pixels: two rows and three columns of tiles


def near_sighted(vae: VAE) -> VAE:
    """Only the middle of every kernel is left, and attention gives nothing."""
    for module in vae.modules():
        if isinstance(module, Attention):
            nn.init.zeros_(module.proj.weight)
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            middle = module.weight[:, :, 1, 1].clone()
            nn.init.zeros_(module.weight)[:, :, 1, 1] = middle
    return vae


def error(found: Tensor, expected: Tensor) -> float:
    """Root of the mean square, relative to the expected tensor's standard deviation."""
    return float((found - expected).square().mean().sqrt() / expected.std())


@torch.inference_mode()
def test_what_needs_no_neighbours_is_equal_but_for_rounding() -> None:
    vae, latent = near_sighted(tiny.vae()), tiny.draw(*LATENT)
    torch.testing.assert_close(decode_tiled(vae, latent), vae.decode(latent), atol=1e-5, rtol=0)
    image = tiny.draw(1, 3, 288, 448).clamp(-1, 1)
    for tiled, whole in zip(encode_tiled(vae, image), vae.encode(image), strict=True):
        torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_random_network_stays_within_the_tolerance() -> None:
    vae, latent = tiny.vae(), tiny.draw(*LATENT)
    assert 0 < error(decode_tiled(vae, latent), vae.decode(latent)) < 0.2
    image = tiny.draw(1, 3, 288, 448).clamp(-1, 1)
    assert 0 < error(encode_tiled(vae, image)[0], vae.encode(image)[0]) < 0.2


@torch.inference_mode()
def test_a_picture_of_one_tile_is_equal() -> None:
    vae, latent = tiny.vae(), tiny.draw(1, 16, 24, 8)
    assert torch.equal(decode_tiled(vae, latent), vae.decode(latent))


@torch.inference_mode()
@pytest.mark.usefixtures("threads")
def test_tiled_is_deterministic_on_any_number_of_threads() -> None:
    vae, latent = tiny.vae(), tiny.draw(*LATENT)
    torch.set_num_threads(1)
    first = decode_tiled(vae, latent)
    torch.set_num_threads(2)
    assert torch.equal(decode_tiled(vae, latent), first)


@torch.inference_mode()
def test_the_tiled_picture_is_clamped() -> None:
    vae = tiny.vae()
    vae.decoder.conv_out.weight.mul_(100)
    image = decode_tiled(vae, tiny.draw(1, 16, 16, 40))
    assert (float(image.min()), float(image.max())) == (-1.0, 1.0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (48, 48), (49, 100), (130, 97)])
def test_cut_and_merge_invert(height: int, width: int) -> None:
    """Tiles that agree where they overlap come out as they went in."""
    x = tiny.draw(1, 2, height, width)
    tiles = [[part.clone() for part in row] for row in cut(x, 64, 48)]
    torch.testing.assert_close(merge(tiles, 16, 48), x, atol=1e-6, rtol=0)


def test_neighbours_are_blended_linearly() -> None:
    """From 0 in the left tile to 1 in the right one, over the overlap of four columns."""
    left, right = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    row = merge([[left, right]], 4, 4)[0, 0, 0]
    assert row.tolist() == [0, 0, 0, 0, 0, 0.25, 0.5, 0.75]


def test_large_pictures_are_tiled(tiny_pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    latent = tiny.draw(16, 40, 32)
    whole = tiny_pipe.decode([latent])[0]
    monkeypatch.setattr(engine, "TILE_ABOVE", 320 * 256 - 1)
    tiled = tiny_pipe.decode([latent])[0]
    monkeypatch.setattr(engine, "TILE_ABOVE", 320 * 256)
    assert torch.equal(tiny_pipe.decode([latent])[0], whole)
    assert not torch.equal(tiled, whole)
