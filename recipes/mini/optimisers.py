"""Two optimisers as one: Muon for the matrices inside a network, AdamW for all the rest."""

from collections.abc import Callable, Iterable
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
    """``inside(name)``: whether a parameter of two or more axes is Muon's. ``share(name)``: of the
    rates, for parts that need smaller ones."""

    def __init__(
        self,
        module: nn.Module,
        inside: Callable[[str], bool],
        rates: Rates,
        share: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        own = [(p, share(n), p.ndim >= 2 and inside(n)) for n, p in named]
        self.module, self.rates = module, rates
        self.muon = Muon(groups((p, part) for p, part, matrix in own if matrix), lr=rates.muon_rate)
        self.adam = torch.optim.AdamW(
            groups((p, part) for p, part, matrix in own if not matrix),
            lr=rates.adam_rate,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=True,
        )

    def step(self, loss: Tensor, step: int, steps: int) -> None:
        """One update, at the rates of ``step`` of ``steps``: the settings', not a checkpoint's."""
        factor = learning_rate(step, steps, self.rates.warm_up, self.rates.decay)
        both = ((self.muon, self.rates.muon_rate), (self.adam, self.rates.adam_rate))
        for optimiser, peak in both:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = peak * factor * group["share"]
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), CLIP)
        self.muon.step()
        self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adam.load_state_dict(state_dict["adam"])


def groups(parameters: Iterable[tuple[Tensor, float]]) -> list[dict[str, Any]]:
    """Parameters of the same share of the rate together."""
    found: dict[float, list[Tensor]] = {}
    for parameter, share in parameters:
        found.setdefault(share, []).append(parameter)
    return [{"params": own, "share": share} for share, own in found.items()]
