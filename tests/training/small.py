"""A training of the tiny transformer on random latents, in milliseconds a step."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danqing.models.transformer import Transformer
from danqing.sampling.schedule import ScheduleConfig
from danqing.training.data.pictures import Picture
from danqing.training.data.records import Place, Record
from danqing.training.loop import Event, Stepped, Training
from danqing.training.loss import sigma_sampler
from danqing.training.memory import checkpoint_blocks, quantise_blocks
from danqing.training.settings import Settings, make
from danqing.training.stock import Stock, Take
from danqing.training.subject import FullSubject, LoraSubject
from tests import tiny

CAPTIONS = ("a red fox", "一只猫", "a house in the snow")
SETTINGS = {
    "data": ["photos"],
    "out": "mine.safetensors",
    "steps": 12,
    "batch": 2,
    "rate": 1e-2,
    "rank": 4,
    "alpha": 4.0,
    "warm_up": 3,
    "ema": 0.9,
    "save_every": 3,
    "evaluate_every": 4,
    "sample_every": 0,
}


@dataclass(frozen=True)
class Shelf:
    """Latents and features that follow from a picture's or a caption's name."""

    dtype: torch.dtype = torch.float32

    def latents(self, picture: Picture) -> tuple[Tensor, Tensor]:
        width, height = (pixels // 8 for pixels in picture.size)
        mean = tiny.draw(16, height, width, seed=int(picture.record.origin))
        return mean, torch.full_like(mean, -4.0)

    def text(self, caption: str) -> Tensor:
        return tiny.draw(2 + len(caption), 64, seed=len(caption)).to(self.dtype)


def pictures(count: int = 5) -> list[Picture]:
    sizes = [(64, 64), (96, 32), (32, 48)]
    return [
        Picture(
            Record(str(n), Place(Path(str(n))), (CAPTIONS[n % 3],), repeats=1 + n % 2), sizes[n % 3]
        )
        for n in range(count)
    ]


def settings(**values: Any) -> Settings:
    return make({**SETTINGS, **values})


def network(dtype: torch.dtype = torch.float32) -> Transformer:
    return tiny.transformer().to(dtype)


def training(folder: Path, own: Settings, dtype: torch.dtype = torch.float32) -> Training:
    """At its beginning, or where the folder's state says."""
    folder.mkdir(parents=True, exist_ok=True)
    base = network(dtype)
    make_subject = LoraSubject if own.kind == "lora" else FullSubject
    subject = make_subject(base, own)
    if own.quantise != "none":
        quantise_blocks(base, own.quantise)
    if own.checkpointing:
        checkpoint_blocks(base)
    options = {"mean": 0.0, "std": 1.0, "shift": "auto", "nodes": own.nodes}
    take = Take(sigma_sampler(own.sigma, options, ScheduleConfig()), 0.1, None, own.seed)
    shelf, whole = Shelf(dtype), pictures()
    held_out = Stock(whole[:2], shelf, take).fixed((0.3, 0.7))
    prior = [shelf.text(prompt) for prompt in own.prior_prompts]
    return Training(subject, Stock(whole[2:], shelf, take), held_out, prior, own, folder)


def losses(events: list[Event]) -> list[tuple[int, float, float, float]]:
    return [(e.step, e.loss, e.prior, e.norm) for e in events if isinstance(e, Stepped)]


def weights(of: Training) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in of.parameters.items()}


def changed(own: Settings, **values: Any) -> Settings:
    return replace(own, **values)
