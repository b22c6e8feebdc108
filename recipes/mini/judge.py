"""Stage `judge`: a small classifier that says which concept a picture shows.

It scores the generator, so it never sees the generator's pictures nor its random stream: it is
trained on spoilt views of the glyphs (see views.py). It knows the drawings themselves, so its
scores say "as drawn here", not "as anyone would draw it".
"""

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from recipes.mini.art import Bank, load_bank
from recipes.mini.colours import WHITE, find_colour
from recipes.mini.compose import clash, compose
from recipes.mini.concepts import Concept, choose_concepts
from recipes.mini.config import Config
from recipes.mini.facts import Facts
from recipes.mini.files import write_atomic, write_json
from recipes.mini.loop import Budget, learning_rate, set_learning_rate, train
from recipes.mini.views import draw_views

GLYPH = 96  # pixels: views reduce it to 40 to 64


class Judge(nn.Module):
    """Residual convolutions, halving four times, then the mean over the picture."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 8 * width)
        self.width, self.num_classes = width, num_classes
        self.stem = convolution(3, width, stride=2)
        self.stages = nn.Sequential(*(Stage(a, b) for a, b in itertools.pairwise(widths)))
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, 64, 64] in -1..1 -> logits [B, classes]"""
        features = self.stages(F.relu(self.stem(image)))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits

    @torch.no_grad()
    def classify(self, images: np.ndarray) -> Tensor:
        """uint8 [n, 64, 64, 3] -> logits [n, classes]; classes are the concepts of [data]."""
        self.eval()
        device = self.head.weight.device
        parts = torch.split(torch.from_numpy(np.ascontiguousarray(images)), 256)
        scaled = (part.to(device).permute(0, 3, 1, 2) / 127.5 - 1 for part in parts)
        return torch.cat([self(part).cpu() for part in scaled])


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
    stage, data, folder = config.judge, config.data, runs / "judge"
    budget = Budget(stage.pictures, stage.batch, minutes)
    concepts = choose_concepts(data.concepts, data.num_concepts)
    bank = load_bank(config, concepts, runs)
    held = held_renders(config, concepts, bank)
    torch.manual_seed(stage.seed)
    judge = Judge(stage.width, len(concepts))
    optimiser = torch.optim.AdamW(
        judge.parameters(), lr=stage.learning_rate, weight_decay=stage.weight_decay
    )
    step_fn = stepper(judge, optimiser, *tensors(bank, concepts), config, budget)

    def on_save(step: int) -> None:
        publish(judge, concepts, accuracy(judge, held), step, folder)

    train({"judge": judge, "optimiser": optimiser}, step_fn, budget, folder, on_save)


def stepper(
    judge: Judge,
    optimiser: torch.optim.Optimizer,
    glyphs: Tensor,
    labels: Tensor,
    config: Config,
    budget: Budget,
) -> Callable[[int], float]:
    """One step of training, its views drawn from (seed, step) alone."""
    stage, size = config.judge, config.data.size

    def step_fn(step: int) -> float:
        judge.train()
        rng = torch.Generator().manual_seed(stage.seed * 2**32 + step)
        chosen = torch.randint(len(glyphs), (stage.batch,), generator=rng)
        image = draw_views(glyphs[chosen], size, rng)
        factor = learning_rate(step, budget.steps, stage.warm_up, stage.decay)
        set_learning_rate(optimiser, stage.learning_rate * factor)
        loss = F.cross_entropy(judge(image), labels[chosen], label_smoothing=0.05)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step_fn


def tensors(bank: Bank, concepts: list[Concept]) -> tuple[Tensor, Tensor]:
    """Glyphs [n, 4, GLYPH, GLYPH], colour times alpha, and the class of each."""
    place = {concept.hex: number for number, concept in enumerate(concepts)}
    small = [np.asarray(g.resize((GLYPH, GLYPH), Image.Resampling.LANCZOS)) for g in bank.values()]
    glyphs = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 255
    glyphs[:, :3] *= glyphs[:, 3:]
    return glyphs, torch.tensor([place[code] for _, code in bank])


def held_renders(
    config: Config, concepts: list[Concept], bank: Bank
) -> dict[str, list[np.ndarray]]:
    """For each style the renders of every concept in turn, on backgrounds drawn by chance."""
    data = config.data
    renders: dict[str, list[np.ndarray]] = {}
    for style in data.styles:
        renders[style] = []
        for number in range(config.judge.held_renders):
            for concept in concepts:
                rng = random.Random(f"{config.judge.seed}|held|{style}|{concept.hex}|{number}")
                glyph = bank[style, concept.hex]
                fit = [c for c in data.backgrounds if not clash(glyph, find_colour(c).rgb)]
                facts = Facts(concept, style, rng.choice([WHITE, *fit]))
                renders[style].append(compose(facts, bank, rng, data.size))
    return renders


def accuracy(judge: Judge, held: dict[str, list[np.ndarray]]) -> dict[str, float]:
    """Share of held-out renders whose first guess is right, for each style."""
    shares = {}
    for style, images in held.items():
        guess = judge.classify(np.stack(images)).argmax(dim=1)
        truth = torch.arange(len(images)) % judge.num_classes
        shares[style] = round((guess == truth).float().mean().item(), 4)
    return shares


def publish(
    judge: Judge, concepts: list[Concept], shares: dict[str, float], step: int, folder: Path
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
