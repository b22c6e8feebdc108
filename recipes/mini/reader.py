"""Stage `reader`: a small network that says how a picture is composed: style, count and place.

Like the judge it is trained apart from the generator: on spoilt renders of a stream of its own.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import Dataset

from recipes.mini.art import load_bank
from recipes.mini.config import Config, DataConfig, JudgeConfig
from recipes.mini.crops import SIDE
from recipes.mini.facts import MOST, PLACES, Facts
from recipes.mini.files import write_atomic, write_json
from recipes.mini.judge import Trunk, is_inside
from recipes.mini.loop import Budget, train
from recipes.mini.optimisers import Optimisers
from recipes.mini.stream import Picture, Stream, batches
from recipes.mini.vae import to_float
from recipes.mini.views import NOISE, soften, uniform

UNKNOWN = -100  # what cross-entropy leaves out
GAIN = 0.15
PARTS = ("style", "count", "place")


class Reader(nn.Module):
    """The judge's convolutions; where things are counts, so there is no mean over the picture."""

    def __init__(self, width: int, styles: Sequence[str]) -> None:
        super().__init__()
        self.width, self.styles = width, tuple(styles)
        self.trunk = Trunk(width)
        size = self.trunk.channels * (SIDE // 16) ** 2
        sizes = {"style": len(styles), "count": MOST, "place": len(PLACES)}
        self.heads = nn.ModuleDict({name: nn.Linear(size, n) for name, n in sizes.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """[B, 3, 64, 64] in -1..1 -> logits of each part"""
        features = self.trunk(image).flatten(1)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, images: np.ndarray) -> dict[str, list[str | int]]:
        """uint8 [n, 64, 64, 3] -> style, count and place of each picture"""
        self.eval()
        parts = [self(to_float(p)) for p in torch.from_numpy(images.copy()).split(256)]
        best = {name: torch.cat([p[name] for p in parts]).argmax(dim=1).tolist() for name in PARTS}
        return {
            "style": [self.styles[i] for i in best["style"]],
            "count": [i + 1 for i in best["count"]],
            "place": [PLACES[i] for i in best["place"]],
        }


def labels(facts: Facts, styles: Sequence[str]) -> list[int]:
    """Of each part. Two things are neither one nor two of a kind; most have no named place."""
    count = UNKNOWN if facts.other else facts.count - 1
    place = PLACES.index(facts.place) if facts.place else UNKNOWN
    return [styles.index(facts.style), count, place]


class Views(Dataset[tuple[Tensor, Tensor]]):
    """steps[n]: pictures, uint8 [B, H, W, 3], and labels [B, parts]."""

    def __init__(self, stream: Stream, batch: int) -> None:
        self.stream, self.batch = stream, batch

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        numbers = range(step * self.batch, (step + 1) * self.batch)
        pictures = [self.stream.picture(number, (SIDE, SIDE)) for number in numbers]
        found = [labels(p.facts, self.stream.styles) for p in pictures]
        return torch.from_numpy(np.stack([p.image for p in pictures])), torch.tensor(found)


def run(config: Config, runs: Path, minutes: float | None) -> None:
    stage, folder = config.reader, runs / "reader"
    load_bank(config, runs)
    budget = Budget(stage.pictures, stage.batch, minutes)
    held = held_pictures(config.data, runs, stage.held_renders)
    torch.manual_seed(stage.seed)
    reader = Reader(stage.width, config.data.styles)
    optimisers = Optimisers(reader, is_inside, stage)
    views = Views(Stream(config.data, runs, "reader"), stage.batch)
    step_fn = stepper(reader, optimisers, views, stage, budget)

    def on_save(step: int) -> None:
        publish(reader, accuracy(reader, held), step, folder)

    train({"reader": reader, "optimisers": optimisers}, step_fn, budget, folder, on_save)


def stepper(
    reader: Reader,
    optimisers: Optimisers,
    views: Views,
    stage: JudgeConfig,
    budget: Budget,
) -> Callable[[int], float]:
    source = None

    def step_fn(step: int) -> float:
        nonlocal source
        source = source or batches(views, step, budget.steps, torch.device("cpu"))
        images, wanted = next(source)
        reader.train()
        rng = torch.Generator().manual_seed(stage.seed * 2**32 + step)
        found = reader(spoil(to_float(images), rng))
        losses = [
            F.cross_entropy(found[name], wanted[:, i], label_smoothing=0.05, reduction="sum")
            for i, name in enumerate(PARTS)
        ]
        loss = torch.stack(losses).sum() / (wanted != UNKNOWN).sum()
        optimisers.step(loss, step, budget.steps)
        return loss.item()

    return step_fn


def spoil(images: Tensor, rng: torch.Generator) -> Tensor:
    """Softer, noisier and a little off in colour, as what a generator paints."""
    image = soften(images / 2 + 0.5, rng)
    gain = 1 + GAIN * (2 * torch.rand(len(image), 3, 1, 1, generator=rng) - 1)
    noise = torch.randn(image.shape, generator=rng) * uniform(len(image), 0, NOISE, rng)
    return (image * gain + noise).clamp(0, 1) * 2 - 1


def held_pictures(data: DataConfig, runs: Path, count: int) -> dict[str, list[Picture]]:
    """For each part ``count`` held-out renders in which it can be told."""
    stream, number = Stream(data, runs, "held"), 0
    found: dict[str, list[Picture]] = {name: [] for name in PARTS}
    while min(map(len, found.values())) < count:
        facts, own = stream.facts(number), labels(stream.facts(number), stream.styles)
        for name, label in zip(PARTS, own, strict=True):
            usual = name == "count" and facts.count == 1 and len(found[name]) % MOST
            if label != UNKNOWN and not usual and len(found[name]) < count:
                found[name].append(stream.picture(number, (SIDE, SIDE)))
        number += 1
    return found


def accuracy(reader: Reader, held: Mapping[str, list[Picture]]) -> dict[str, float]:
    """Share of held-out renders that are read right."""
    shares = {}
    for name, pictures in held.items():
        read = reader.read(np.stack([p.image for p in pictures]))[name]
        right = [own == getattr(p.facts, name) for own, p in zip(read, pictures, strict=True)]
        shares[name] = round(float(np.mean(right)), 4)
    return shares


def publish(reader: Reader, shares: dict[str, float], step: int, folder: Path) -> None:
    metadata = {"width": str(reader.width), "styles": json.dumps(reader.styles)}
    state = {name: tensor.contiguous() for name, tensor in reader.state_dict().items()}
    write_atomic(folder / "reader.safetensors", save(state, metadata))
    write_json(folder / "reader.json", {"accuracy": shares, "steps": step})
    print(f"reader: step {step}  accuracy {shares}", flush=True)


def load(runs: Path) -> Reader:
    path = runs / "reader" / "reader.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run the stage `reader` first")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        reader = Reader(int(metadata["width"]), json.loads(metadata["styles"]))
        reader.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return reader.eval()
