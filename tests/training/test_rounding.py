"""What eight bits do to the velocity is measured against the files' own weights."""

from pathlib import Path

import pytest
import torch

from danqing.training.loss import Example, lay_out, velocities
from danqing.training.memory import Quantised
from danqing.training.prepare import Place, load_transformer
from danqing.training.rounding import exact, rounding
from tests import tiny


def examples() -> list[Example]:
    """Two pictures of different shapes, with texts of different lengths."""
    return [
        Example(tiny.draw(r * c, 64, seed=r), tiny.draw(r * c, 64, seed=9), r, c, text, sigma)
        for r, c, text, sigma in (
            (3, 2, tiny.draw(4, 64, seed=5), 0.3),
            (2, 4, tiny.draw(7, 64, seed=6), 0.8),
        )
    ]


def answers(network) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(velocities(network, examples(), lay_out(examples())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["int8", "float8"])
def test_it_is_the_difference_to_the_network_as_it_is(
    tiny_model: Path, kind: str, dtype: torch.dtype
) -> None:
    place = Place(Path(tiny_model), torch.device("cpu"), dtype)
    plain, rounded = load_transformer(place), load_transformer(place, kind)
    layers = [module for module in rounded.modules() if isinstance(module, Quantised)]
    assert layers
    assert all(layer.q.dtype.itemsize == 1 for layer in layers)
    expected = (answers(rounded) - answers(plain)).norm() / answers(plain).norm()
    assert rounding(rounded, place.folder, examples()) == pytest.approx(float(expected), rel=1e-3)
    assert 1e-4 < float(expected) < 0.1
    with exact(rounded, place.folder):
        assert torch.equal(answers(rounded), answers(plain))
    assert not torch.equal(answers(rounded), answers(plain))  # and afterwards as before
