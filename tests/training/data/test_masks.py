"""Masks become weights of patches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from danqing.errors import DataError
from danqing.sampling.latents import pack
from danqing.training.data.masks import check_shape, open_mask, patch_weights
from danqing.training.data.records import Place
from tests.training.pictures import save


def mask(path: Path, size: tuple[int, int], *white: tuple[int, int, int, int]) -> Place:
    image = Image.new("L", size, 0)
    for box in white:
        image.paste(255, box)
    return Place(save(path / "m.png", image))


def test_a_white_mask_counts_everywhere_alike(tmp_path: Path) -> None:
    place = mask(tmp_path, (50, 70), (0, 0, 50, 70))
    found = patch_weights(place, (48, 64))
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.ones(12, 1))


def test_half_a_mask_counts_twice(tmp_path: Path) -> None:
    place = mask(tmp_path, (64, 32), (0, 0, 32, 32))
    found = patch_weights(place, (64, 32))
    assert found.tolist() == [[2], [2], [0], [0]] * 2


def test_a_patch_counts_by_its_share(tmp_path: Path) -> None:
    place = mask(tmp_path, (32, 16), (0, 0, 16, 16), (16, 0, 20, 16))
    assert patch_weights(place, (32, 16)).flatten().tolist() == pytest.approx([1.6, 0.4])


def test_the_order_is_that_of_packed_latents(tmp_path: Path) -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    place = Place(save(tmp_path / "m.png", Image.fromarray(grey.repeat(16, 0).repeat(16, 1))))
    found = patch_weights(place, (48, 32))
    latent = torch.from_numpy(grey.repeat(2, 0).repeat(2, 1).astype(np.float32))[None]
    wanted = pack(latent)[:, :1]
    assert torch.allclose(found, wanted / wanted.mean())
    assert found.shape == (6, 1)
    assert float(found.mean()) == pytest.approx(1)


def test_it_is_cropped_with_its_picture(tmp_path: Path) -> None:
    whole = (96, 32)  # its middle third is trained on
    place = mask(tmp_path, whole, (0, 0, 40, 32))
    assert patch_weights(place, (32, 32)).flatten().tolist() == [2, 0, 2, 0]
    with pytest.raises(DataError, match="the mask is all black"):
        patch_weights(mask(tmp_path, whole, (0, 0, 30, 32)), (32, 32))


def test_a_mask_may_have_another_resolution(tmp_path: Path) -> None:
    small, large = mask(tmp_path, (8, 4), (0, 0, 4, 4)), (64, 32)
    assert patch_weights(small, large).tolist() == [[2], [2], [0], [0]] * 2


def test_the_unit(tmp_path: Path) -> None:
    place = mask(tmp_path, (64, 32), (0, 0, 32, 32))
    assert patch_weights(place, (64, 32), unit=32).tolist() == [[2], [0]]


def test_an_all_black_mask(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the mask is all black; nothing"):
        patch_weights(mask(tmp_path, (64, 32)), (64, 32))


def test_colours_and_alpha(tmp_path: Path) -> None:
    image = Image.new("RGBA", (32, 16), (255, 255, 255, 255))
    image.paste((255, 255, 255, 0), (16, 0, 32, 16))
    found = open_mask(Place(save(tmp_path / "m.png", image)))
    assert found.mode == "F"
    assert np.asarray(found)[0, [0, 31]].tolist() == [255, 0]


def test_sixteen_bits_are_a_mask_too(tmp_path: Path) -> None:
    values = np.full((16, 32), 65535, np.uint16)
    values[:, 16:] = 65535 // 4
    place = Place(save(tmp_path / "m.png", Image.fromarray(values)))
    assert patch_weights(place, (32, 16)).flatten().tolist() == pytest.approx([1.6, 0.4], abs=4e-3)


@pytest.mark.parametrize("mask", [(1024, 768), (512, 384), (256, 192), (128, 97), (2048, 1536)])
def test_shapes_that_go_together(mask: tuple[int, int]) -> None:
    check_shape(mask, (1024, 768))
    check_shape((341, 256), (1023, 767))


@pytest.mark.parametrize("mask", [(768, 1024), (1024, 1024), (1024, 750), (100, 77)])
def test_shapes_that_do_not(mask: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"the mask is \d+x\d+, its picture 1024x768"):
        check_shape(mask, (1024, 768))
