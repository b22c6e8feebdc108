"""Stage `judge`: a small classifier that says which concept a picture shows.

It scores the generator, so it never sees the generator's pictures nor its random stream: it is
trained on spoilt views of the glyphs (see views.py). It knows the drawings themselves, so its
scores say "as drawn here", not "as anyone would draw it".
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from recipes.mini.art import Bank, load_bank
from recipes.mini.compose import FLIPPED
from recipes.mini.concepts import Concept, read_concepts
from recipes.mini.config import Config
from recipes.mini.crops import SIDE
from recipes.mini.files import write_atomic, write_json
from recipes.mini.loop import Budget, train
from recipes.mini.optimisers import Optimisers
from recipes.mini.stream import Stream
from recipes.mini.views import draw_views

GLYPH = 96  # pixels: views reduce it to 40 to 64


class Trunk(nn.Module):
    """Residual convolutions, halving four times."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 8 * width)
        self.channels = widths[-1]
        self.stem = convolution(3, width, stride=2)
        self.stages = nn.Sequential(*(Stage(a, b) for a, b in itertools.pairwise(widths)))

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in -1..1 -> [B, channels, H / 16, W / 16]"""
        features: Tensor = self.stages(F.relu(self.stem(image)))
        return features


class Judge(nn.Module):
    """The mean of the features over the picture, and a name for it."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.width, self.num_classes = width, num_classes
        self.trunk = Trunk(width)
        self.head = nn.Linear(self.trunk.channels, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, 64, 64] in -1..1 -> logits [B, classes]"""
        logits: Tensor = self.head(self.features(image))
        return logits

    def features(self, image: Tensor) -> Tensor:
        return self.trunk(image).mean(dim=(2, 3))

    def classify(self, images: np.ndarray) -> Tensor:
        """uint8 [n, 64, 64, 3] -> logits [n, classes]; classes are the concepts in their order."""
        return self.over(images, self)

    def describe(self, images: np.ndarray) -> Tensor:
        """uint8 [n, 64, 64, 3] -> features [n, channels], in which pictures are compared"""
        return self.over(images, self.features)

    @torch.no_grad()
    def over(self, images: np.ndarray, function: Callable[[Tensor], Tensor]) -> Tensor:
        self.eval()
        device = self.head.weight.device
        parts = torch.split(torch.from_numpy(np.ascontiguousarray(images)), 256)
        scaled = (part.to(device).permute(0, 3, 1, 2) / 127.5 - 1 for part in parts)
        return torch.cat([function(part).cpu() for part in scaled])


class Stage(nn.Module):
    """Halve the picture, then one residual step."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.down = convolution(width_in, width_out, stride=2)
        self.step = convolution(width_out, width_out, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.down(x))
        return F.relu(x + self.step(x))


def convolution(width_in: int, width_out: int, stride: int) -> nn.Sequential:
    layer = nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(width_out))


def run(config: Config, runs: Path, minutes: float | None) -> None:
    stage, folder = config.judge, runs / "judge"
    budget = Budget(stage.pictures, stage.batch, minutes)
    concepts, bank = read_concepts(), load_bank(config, runs)
    held = held_renders(Stream(config.data, runs, "held"), stage.held_renders)
    torch.manual_seed(stage.seed)
    judge = Judge(stage.width, len(concepts))
    optimisers = Optimisers(judge, is_inside, stage)
    step_fn = stepper(judge, optimisers, *tensors(bank, concepts), config, budget)

    def on_save(step: int) -> None:
        publish(judge, concepts, accuracy(judge, concepts, held), step, folder)

    train({"judge": judge, "optimisers": optimisers}, step_fn, budget, folder, on_save)


def is_inside(name: str) -> bool:
    """The kernels; not the answers."""
    return name.startswith("trunk.")


def stepper(
    judge: Judge,
    optimisers: Optimisers,
    glyphs: Tensor,
    labels: Tensor,
    config: Config,
    budget: Budget,
) -> Callable[[int], float]:
    """One step of training, its views drawn from (seed, step) alone."""
    stage = config.judge
    flipped = torch.tensor([concept.kind in FLIPPED for concept in read_concepts()])

    def step_fn(step: int) -> float:
        judge.train()
        rng = torch.Generator().manual_seed(stage.seed * 2**32 + step)
        chosen = torch.randint(len(glyphs), (stage.batch,), generator=rng)
        turn = (torch.rand(stage.batch, generator=rng) < 0.5) & flipped[labels[chosen]]
        own = torch.where(turn[:, None, None, None], glyphs[chosen].flip(-1), glyphs[chosen])
        image = draw_views(own, SIDE, rng)
        loss = F.cross_entropy(judge(image), labels[chosen], label_smoothing=0.05)
        optimisers.step(loss, step, budget.steps)
        return loss.item()

    return step_fn


def tensors(bank: Bank, concepts: tuple[Concept, ...]) -> tuple[Tensor, Tensor]:
    """Glyphs [n, 4, GLYPH, GLYPH], colour times alpha, and the class of each."""
    place = {concept.hex: number for number, concept in enumerate(concepts)}
    small = np.stack([square(glyph) for glyph in bank.values()])
    glyphs = torch.from_numpy(small).permute(0, 3, 1, 2) / 255
    glyphs[:, :3] *= glyphs[:, 3:]
    return glyphs, torch.tensor([place[code] for _, code in bank])


def square(glyph: Image.Image) -> np.ndarray:
    """In the middle of a square of GLYPH pixels."""
    glyph = ImageOps.contain(glyph, (GLYPH, GLYPH), Image.Resampling.LANCZOS)
    cell = Image.new("RGBA", (GLYPH, GLYPH))
    cell.paste(glyph, ((GLYPH - glyph.width) // 2, (GLYPH - glyph.height) // 2))
    return np.asarray(cell)


def held_renders(stream: Stream, count: int) -> dict[str, list[tuple[Concept, np.ndarray]]]:
    """For each style held-out renders of one thing, as the score's prompts ask for it."""
    renders: dict[str, list[tuple[Concept, np.ndarray]]] = defaultdict(list)
    number = 0
    while min((len(renders[s]) for s in stream.styles), default=0) < count:
        picture = stream.picture(number, (SIDE, SIDE))
        facts, number = picture.facts, number + 1
        if facts.plain:
            renders[facts.style].append((facts.concept, picture.image))
    return renders


def accuracy(
    judge: Judge, concepts: tuple[Concept, ...], held: dict[str, list[tuple[Concept, np.ndarray]]]
) -> dict[str, float]:
    """Share of held-out renders whose first guess is right, for each style."""
    shares = {}
    for style, renders in held.items():
        guess = judge.classify(np.stack([image for _, image in renders])).argmax(dim=1)
        right = [concepts[int(g)] == c for g, (c, _) in zip(guess, renders, strict=True)]
        shares[style] = round(float(np.mean(right)), 4)
    return shares


def publish(
    judge: Judge, concepts: tuple[Concept, ...], shares: dict[str, float], step: int, folder: Path
) -> None:
    metadata = {"width": str(judge.width), "concepts": json.dumps([c.hex for c in concepts])}
    state = {name: tensor.contiguous() for name, tensor in judge.state_dict().items()}
    write_atomic(folder / "judge.safetensors", save(state, metadata))
    facts = {"accuracy": shares, "steps": step, "classes": len(concepts)}
    write_json(folder / "judge.json", facts)
    print(f"judge: step {step}  accuracy {shares}", flush=True)


def load(runs: Path) -> Judge:
    """The trained judge, ready to classify."""
    path = runs / "judge" / "judge.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run the stage `judge` first")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        judge = Judge(int(metadata["width"]), len(json.loads(metadata["concepts"])))
        judge.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return judge.eval()
