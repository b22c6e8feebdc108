"""Stage `reader`: a small network that says how a picture is composed: style, count and place.

Like the judge it is trained apart from the generator: on spoilt renders of a stream of its own.
"""

import json
import random
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
from recipes.mini.compose import Spot, layout
from recipes.mini.config import Config, DataConfig, JudgeConfig
from recipes.mini.crops import SIDE
from recipes.mini.facts import MOST, PLACES, Facts
from recipes.mini.files import write_atomic, write_json
from recipes.mini.judge import Trunk
from recipes.mini.looks import SIZE, small, spots
from recipes.mini.loop import Budget, train
from recipes.mini.optimisers import Optimisers
from recipes.mini.stream import Picture, Stream, batches
from recipes.mini.vae import to_float
from recipes.mini.views import NOISE, soften, uniform

UNKNOWN = -100  # what cross-entropy leaves out
GAIN = 0.15
MIDDLE: Spot = (SIZE[0] / 2, SIZE[1] / 2)
NEAR = 12.0  # pixels
PARTS = ("style", "count", "place")


class Reader(nn.Module):
    """The judge's convolutions twice: over a whole picture, and over a piece of what it shows.

    Where things are counts, so there is no mean over the picture. A style is in the shading, which
    may be anywhere, and which a small picture loses.
    """

    def __init__(self, width: int, styles: Sequence[str]) -> None:
        super().__init__()
        self.width, self.styles = width, tuple(styles)
        self.whole, self.piece = Trunk(width), Trunk(width)
        grid = self.whole.channels * (SIDE // 16) ** 2
        self.count, self.place = nn.Linear(grid, MOST), nn.Linear(grid, len(PLACES))
        self.style = nn.Linear(self.piece.channels, len(styles))

    def forward(self, whole: Tensor, piece: Tensor) -> dict[str, Tensor]:
        """Both [B, 3, 64, 64] in -1..1 -> logits of each part"""
        grid, shading = self.whole(whole).flatten(1), self.piece(piece).mean(dim=(2, 3))
        return {"style": self.style(shading), "count": self.count(grid), "place": self.place(grid)}

    @torch.no_grad()
    def read(self, images: np.ndarray) -> dict[str, list[str | int]]:
        """uint8 [n, 128, 128, 3] -> style (of what is in the middle), count and place of each"""
        self.eval()
        looks = small(images), spots(images, [MIDDLE] * len(images))
        wholes, pieces = (torch.from_numpy(own).split(256) for own in looks)
        parts = [self(to_float(w), to_float(p)) for w, p in zip(wholes, pieces, strict=True)]
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


class Views(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """steps[n]: pictures and pieces of them, uint8 [B, 64, 64, 3], and labels [B, parts]."""

    def __init__(self, stream: Stream, batch: int) -> None:
        self.stream, self.batch = stream, batch

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        numbers = range(step * self.batch, (step + 1) * self.batch)
        pictures = [self.stream.picture(number, SIZE) for number in numbers]
        images, rng = np.stack([p.image for p in pictures]), random.Random(step)
        pieces = spots(images, [near(rng, layout(p.facts, SIZE)[0][-1]) for p in pictures])
        found = torch.tensor([labels(p.facts, self.stream.styles) for p in pictures])
        return torch.from_numpy(small(images)), torch.from_numpy(pieces), found


def near(rng: random.Random, spot: Spot) -> Spot:
    """Not always the same piece of a drawing, or it would be known by heart."""
    x, y = (middle + rng.uniform(-NEAR, NEAR) for middle in spot)
    return x, y


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


def is_inside(name: str) -> bool:
    """The kernels; not the answers."""
    return name.startswith(("whole.", "piece."))


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
        *looks, wanted = next(source)
        reader.train()
        rng = torch.Generator().manual_seed(stage.seed * 2**32 + step)
        found = reader(*(spoil(to_float(images), rng) for images in looks))
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
        facts = stream.facts(number)
        own = labels(facts, stream.styles)
        for name, label in zip(PARTS, own, strict=True):
            usual = name == "count" and facts.count == 1 and len(found[name]) % MOST
            aside = name == "style" and not facts.plain
            if label != UNKNOWN and not usual and not aside and len(found[name]) < count:
                found[name].append(stream.picture(number, SIZE))
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
