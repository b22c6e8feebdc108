"""The training loop: resumed runs equal straight ones, budgets end, a broken loss is told."""

import os
import signal
from pathlib import Path

import pytest
import torch

from recipes.mini import checkpoint
from recipes.mini.loop import Average, Budget, learning_rate, train

STEPS, BATCH = 12, 4


class Toy:
    """A regression whose steps draw from (seed, step), like those of the stages."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(3, 2)
        self.optimiser = torch.optim.AdamW(self.layer.parameters(), lr=0.05)
        self.average = Average(self.layer, 0.9)
        self.losses: list[float] = []

    def step(self, step: int) -> float:
        x = torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(step))
        loss = (self.layer(x) - x[:, :2]).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.average.update(step)
        self.losses.append(loss.item())
        return loss.item()

    def run(self, folder: Path, steps: int) -> int:
        parts = {"layer": self.layer, "optimiser": self.optimiser, "average": self.average}
        budget = Budget(pictures=steps * BATCH, batch=BATCH)
        return train(parts, self.step, budget, folder, lambda step: None)


def test_resumed_equals_straight(tmp_path: Path) -> None:
    straight, first, second = Toy(), Toy(), Toy()
    straight.run(tmp_path / "straight", STEPS)
    assert first.run(tmp_path / "cut", 5) == 5
    assert second.run(tmp_path / "cut", STEPS) == STEPS
    assert first.losses + second.losses == straight.losses
    assert torch.equal(second.layer.weight, straight.layer.weight)
    assert torch.equal(second.average.shadow["weight"], straight.average.shadow["weight"])


def test_finished_run_does_nothing_more(tmp_path: Path) -> None:
    Toy().run(tmp_path, STEPS)
    again = Toy()
    assert again.run(tmp_path, STEPS) == STEPS
    assert again.losses == []


def test_time_ends_a_run(tmp_path: Path) -> None:
    toy = Toy()
    budget = Budget(pictures=10**9, batch=BATCH, minutes=1e-4)
    done = train({"layer": toy.layer}, toy.step, budget, tmp_path, lambda step: None)
    assert 0 < done < 10**6
    assert (tmp_path / "state" / "index.json").exists()


def test_broken_loss_is_an_error(tmp_path: Path) -> None:
    budget = Budget(pictures=8, batch=BATCH)
    with pytest.raises(RuntimeError, match="loss is nan at step 0"):
        train({}, lambda step: float("nan"), budget, tmp_path, lambda step: None)


def test_learning_rate_rises_stays_and_falls() -> None:
    rates = [learning_rate(step, 100, warm_up=10, decay=0.2) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:80] == [1.0] * 70
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)


def test_asked_to_stop_saves_first(tmp_path: Path) -> None:
    toy, handler = Toy(), signal.getsignal(signal.SIGTERM)

    def step(number: int) -> float:
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy.step(number)

    done = train({"layer": toy.layer}, step, Budget(400, BATCH), tmp_path, lambda step: None)
    assert done == 4
    assert checkpoint.load(tmp_path / "state")["step"] == 4
    assert signal.getsignal(signal.SIGTERM) == handler
