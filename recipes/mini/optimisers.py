"""Two optimisers as one: Muon for the matrices inside a network, AdamW for all the rest."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from recipes.mini.loop import learning_rate
from recipes.mini.muon import Muon

CLIP = 1.0  # of the gradient's norm


class Rates(Protocol):
    """What a stage's settings say of them: peak rates, and how they rise and fall."""

    @property
    def muon_rate(self) -> float: ...
    @property
    def adam_rate(self) -> float: ...
    @property
    def warm_up(self) -> int: ...
    @property
    def decay(self) -> float: ...


class Optimisers:
    """``inside(name)``: whether a parameter of two or more axes is Muon's."""

    def __init__(self, module: nn.Module, inside: Callable[[str], bool], rates: Rates) -> None:
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        matrices = [p for n, p in named if p.ndim >= 2 and inside(n)]
        chosen = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in chosen]
        self.module, self.rates = module, rates
        self.muon = Muon(matrices, lr=rates.muon_rate)
        self.adam = torch.optim.AdamW(
            others, lr=rates.adam_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )

    def step(self, loss: Tensor, step: int, steps: int) -> None:
        """One update, at the rates of ``step`` of ``steps``: the settings', not a checkpoint's."""
        factor = learning_rate(step, steps, self.rates.warm_up, self.rates.decay)
        both = ((self.muon, self.rates.muon_rate), (self.adam, self.rates.adam_rate))
        for optimiser, peak in both:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = peak * factor
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), CLIP)
        self.muon.step()
        self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adam.load_state_dict(state_dict["adam"])
