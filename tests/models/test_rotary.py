import torch

from danqing.models import text_encoder, transformer
from danqing.models.rotary import inverse_frequencies
from tests import tiny


def test_frequencies_fall_geometrically() -> None:
    found = inverse_frequencies(8, 10000.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([1.0, 0.1, 0.01, 0.001]))


def test_each_axis_turns_its_own_share_of_the_head() -> None:
    positions = torch.tensor([[0, 0, 0], [7, 0, 0], [0, 7, 0], [0, 0, 7]])
    cos, _ = transformer.rope_table(positions, (8, 12, 12), torch.device("cpu"))
    assert cos.shape == (4, 1, 16)
    still = cos[:, 0] == 1
    turned = [[0, 4], [4, 10], [10, 16]]
    for row, (start, end) in enumerate(turned, start=1):
        assert not still[row, start : end - 1].any()
        assert still[row, :start].all()
        assert still[row, end:].all()


def test_a_quarter_turn_of_adjacent_pairs() -> None:
    """The transformer: (a, b) becomes (-b, a) where the cosine is 0 and the sine 1."""
    rope = (torch.zeros(1, 1, 2), torch.ones(1, 1, 2))
    assert transformer.rotate(torch.tensor([[[1.0, 2, 3, 4]]]), rope).tolist() == [[[-2, 1, -4, 3]]]


def test_a_quarter_turn_of_halves() -> None:
    """The text encoder: the two halves of the head turn against each other."""
    rope = (torch.zeros(1, 1, 4), torch.ones(1, 1, 4))
    turned = text_encoder.rotate(torch.tensor([[[1.0, 2, 3, 4]]]), rope)
    assert turned.tolist() == [[[-3, -4, 1, 2]]]


def test_products_depend_on_the_distance_only() -> None:
    q, k = tiny.draw(1, 1, 32, seed=1), tiny.draw(1, 1, 32, seed=2)

    def product(at: int, other: int) -> torch.Tensor:
        positions = torch.tensor([[at] * 3, [other] * 3])
        cos, sin = transformer.rope_table(positions, (8, 12, 12), torch.device("cpu"))
        first = transformer.rotate(q, (cos[:1], sin[:1]))
        return (first * transformer.rotate(k, (cos[1:], sin[1:]))).sum()

    torch.testing.assert_close(product(-3, 4), product(20, 27), atol=1e-4, rtol=0)
    assert abs(product(-3, 4) - product(-3, 5)) > 1e-3
