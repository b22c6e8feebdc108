"""Which noise levels the transformer meets."""

import pytest
import torch
from torch import Tensor, nn

from recipes.mini import base


def levels(shift: float, floors: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.setattr(base, "loss_at", lambda *given: given[4])
    latent = torch.zeros(len(floors), 2, 2, 2)
    rng = torch.Generator().manual_seed(0)
    return base.flow_loss(nn.Module(), latent, [[]] * len(floors), rng, shift, floors, [], latent)


def test_a_shift_goes_to_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    even, noisy = (levels(shift, torch.zeros(4000), monkeypatch) for shift in (1.0, 3.0))
    assert even.median() == pytest.approx(0.5, abs=0.02)
    assert noisy.median() == pytest.approx(0.75, abs=0.02)


def test_no_level_is_below_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    floors = torch.tensor([0.0, 0.4]).repeat(2000)
    free, kept = levels(1.0, floors, monkeypatch).view(-1, 2).unbind(1)
    assert 0 < free.min() < 0.1
    assert 0.4 < kept.min() < 0.5
    assert kept.max() < 1
