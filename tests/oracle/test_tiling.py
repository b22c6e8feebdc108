"""Tiled encode and decode against the oracle's own tiles, which differ visibly from no tiles."""

import pytest
import torch

from danqing.models import tiling
from danqing.models.tiling import decode_tiled, encode_tiled

from . import reference
from .compare import assert_close, difference, normal, uniform_in
from .random_models import Pair, make_pair
from .random_specs import draw

SIZES = [(320, 448), (264, 200), (200, 264)]  # height, width; some tiles are slivers


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A thin model of its own: tiles are switched on in its oracle."""
    spec = draw(6).with_vae(base_dim=12, dim_mult=[1, 1, 2, 2], num_res_blocks=1, attn_scales=[])
    made = make_pair(spec, tmp_path_factory.mktemp("tiles") / "model")
    made.oracle.vae.enable_tiling()
    return made


def test_tiles_have_the_oracles_size(pair: Pair) -> None:
    vae = pair.oracle.vae
    assert vae.tile_sample_min_height == vae.tile_sample_min_width == tiling.TILE
    assert vae.tile_sample_stride_height == vae.tile_sample_stride_width == tiling.STRIDE


@pytest.mark.parametrize("size", SIZES)
def test_encode(pair: Pair, size: tuple[int, int]) -> None:
    image, vae = uniform_in(-1, 1, (1, 3, *size), 1), pair.pipe.model.vae
    found = pair.oracle.vae.encode(image[:, :, None]).latent_dist
    mean, logvar = encode_tiled(vae, image)
    assert_close(mean, found.mean[:, :, 0])
    assert_close(logvar, found.logvar[:, :, 0])
    assert difference(vae.encode(image)[0], mean) > 1e-3, "the tiles made no difference"


@pytest.mark.parametrize("size", SIZES)
def test_decode(pair: Pair, size: tuple[int, int]) -> None:
    vae = pair.pipe.model.vae
    latent = normal((1, vae.config.z_dim, size[0] // 8, size[1] // 8), 2)
    ours, theirs = decode_tiled(vae, latent), reference.decoded(pair.oracle.vae, latent)
    assert (theirs.abs() < 1).float().mean() > 0.5
    assert_close(ours, theirs.clamp(-1, 1))
    assert difference(vae.decode(latent), ours) > 1e-3, "the tiles made no difference"


def test_a_picture_of_one_tile_is_not_cut(pair: Pair) -> None:
    image, vae = uniform_in(-1, 1, (1, 3, 192, 128), 3), pair.pipe.model.vae
    assert torch.equal(encode_tiled(vae, image)[0], vae.encode(image)[0])
    latent = normal((1, vae.config.z_dim, 24, 16), 3)
    assert torch.equal(decode_tiled(vae, latent), vae.decode(latent))
    assert_close(decode_tiled(vae, latent), reference.decoded(pair.oracle.vae, latent))
