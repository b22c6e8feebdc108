"""Stage `text`: the text encoder learns to read before anything is painted.

What a caption says is told from the mean of its features, so "a fox", "RED FOX" and "一只狐狸" come
to lie together. So is what its things look like, as thumbnails: things that look alike come to lie
together, too, and painting has to learn how features become pictures, not every thing by itself.
Reading is many times cheaper than painting.
"""

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from danqing.models.text_encoder import TextEncoder, TextEncoderConfig
from danqing.models.tokenizer import PromptTokenizer
from recipes.mini.art import Bank, load_bank
from recipes.mini.captions import draw_captions
from recipes.mini.colours import COLOURS
from recipes.mini.concepts import read_concepts
from recipes.mini.config import BaseStage, Config
from recipes.mini.facts import MOST, PLACES, RELATIONS, SIZES, Facts
from recipes.mini.files import write_json
from recipes.mini.loop import Average, Budget, Stateful, train
from recipes.mini.optimisers import Optimisers
from recipes.mini.scenes import SCENES
from recipes.mini.stream import Stream, batches

UNKNOWN = -100  # what cross-entropy leaves out
HELD = 512  # facts
NONE = (None,)
THUMB = 8  # pixels of a thumbnail's side
LOOKS = ("look", "other look")
LOOK_WEIGHT = 10.0


def questions(styles: tuple[str, ...]) -> dict[str, tuple[object, ...]]:
    """What is asked of a caption, with all answers."""
    things = tuple(concept.hex for concept in read_concepts())
    return {
        "concept": things,
        "other": things,
        "style": styles,
        "colour": tuple(COLOURS),
        "fade": (*NONE, *COLOURS),
        "scene": (*NONE, *SCENES),
        "tint": (*NONE, *COLOURS),
        "count": tuple(range(1, MOST + 1)),
        "place": (*NONE, *PLACES),
        "size": (*NONE, *SIZES),
        "relation": (*NONE, *RELATIONS),
    }


def answers(facts: Facts) -> dict[str, object]:
    """A fact that is not there to be asked for is no answer to its question."""
    ground = facts.ground
    return {
        "concept": facts.concept.hex,
        "other": facts.other.hex if facts.other else UNKNOWN,
        "style": facts.style,
        "colour": UNKNOWN if ground.scene else ground.colour,
        "fade": ground.fade,
        "scene": ground.scene,
        "tint": facts.tint,
        "count": facts.count,
        "place": facts.place,
        "size": facts.size,
        "relation": facts.relation,
    }


def looks(bank: Bank) -> Tensor:
    """A thumbnail of every drawing, colour times alpha, [drawings, numbers]; of variance 1."""
    small = [square(glyph).resize((THUMB, THUMB), Image.Resampling.BOX) for glyph in bank.values()]
    pixels = torch.from_numpy(np.stack([np.asarray(own) for own in small])).float() / 255
    pixels[..., :3] *= pixels[..., 3:]
    flat = pixels.flatten(1)
    return (flat - flat.mean(dim=0)) / flat.std(dim=0).clamp(min=0.05)


def square(glyph: Image.Image) -> Image.Image:
    side = max(glyph.size)
    cell = Image.new("RGBA", (side, side))
    cell.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return cell


def build_encoder(stage: BaseStage, vocabulary: int) -> TextEncoder:
    return TextEncoder(
        TextEncoderConfig(
            vocab_size=vocabulary,
            hidden_size=stage.text_width,
            intermediate_size=stage.text_inner,
            num_hidden_layers=stage.text_layers,
            num_attention_heads=stage.text_heads,
            num_key_value_heads=stage.text_groups,
        )
    )


def initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=part.in_features**-0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=0.5)


def features(encoder: TextEncoder, tokens: list[list[int]], template: list[int]) -> Tensor:
    """Of captions laid end to end, each of them after the template: [T, D]"""
    device = encoder.embed_tokens.weight.device
    prefix = encoder.prefix(torch.tensor(template, device=device))
    ids = torch.tensor([i for own in tokens for i in own], device=device)
    return encoder(ids, [len(own) for own in tokens], prefix)


class Pupil(nn.Module):
    """The encoder, and linear answers: to every question, and what the things look like."""

    def __init__(self, encoder: TextEncoder, styles: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        sizes = {name: len(own) for name, own in questions(styles).items()}
        sizes |= dict.fromkeys(LOOKS, 4 * THUMB**2)
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in sizes.items()})
        initialise(self)

    def forward(self, tokens: list[list[int]], template: list[int]) -> dict[str, Tensor]:
        """Logits of each question, [captions, answers]; thumbnails [captions, numbers]"""
        own = features(self.encoder, tokens, template).split([len(t) for t in tokens])
        means = torch.stack([rows.mean(dim=0) for rows in own])
        return {name: head(means) for name, head in self.heads.items()}


class Captions(Dataset[tuple[list[list[int]], Tensor]]):
    """steps[n]: tokens of captions in both languages, by length, and labels: the answers to the
    questions, and the drawings' numbers in the bank, [captions, questions + LOOKS]."""

    def __init__(self, stream: Stream, tokenizer: PromptTokenizer, facts: int, seed: int) -> None:
        self.stream, self.tokenizer, self.facts, self.seed = stream, tokenizer, facts, seed
        self.index = {
            name: {answer: i for i, answer in enumerate(own)}
            for name, own in questions(stream.styles).items()
        }
        self.drawings = {key: i for i, key in enumerate(stream.bank)}

    def __getitem__(self, step: int) -> tuple[list[list[int]], Tensor]:
        rng, rows = random.Random(f"{self.seed}|{step}"), []
        for number in range(step * self.facts, (step + 1) * self.facts):
            facts = self.stream.facts(number)
            labels = self.labels(facts)
            for caption in draw_captions(rng, facts):
                rows.append((self.tokenizer.encode(caption), labels))
        rows.sort(key=lambda row: len(row[0]))
        return [tokens for tokens, _ in rows], torch.tensor([labels for _, labels in rows])

    def labels(self, facts: Facts) -> list[int]:
        told = [self.index[name].get(own, UNKNOWN) for name, own in answers(facts).items()]
        things = (facts.concept, facts.other)
        drawn = [(facts.style, thing.hex) if thing else None for thing in things]
        return told + [self.drawings[key] if key else UNKNOWN for key in drawn]


def run(config: Config, runs: Path, minutes: float | None) -> None:
    stage, data = config.text, config.data
    bank = load_bank(config, runs)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(stage.seed)
    tokenizer = PromptTokenizer.from_folder(runs / "tokenizer")
    pupil = Pupil(build_encoder(config.base, tokenizer.vocabulary), data.styles).to(device)
    average = Average(pupil, stage.ema)
    optimisers = Optimisers(pupil, is_inside, stage)
    budget = Budget(stage.captions, stage.batch, minutes)
    steps = Captions(Stream(data, runs, "train"), tokenizer, stage.batch // 2, stage.seed)
    held = Captions(Stream(data, runs, "held"), tokenizer, HELD, stage.seed)[0]
    drawings, source = looks(bank).to(device), None

    def step_fn(step: int) -> float:
        nonlocal source
        source = source or batches(steps, step, budget.steps, device)
        tokens, labels = next(source)
        loss = reading_loss(pupil(tokens, tokenizer.prefix), labels.to(device), drawings)
        optimisers.step(loss, step, budget.steps)
        average.update(step)
        return loss.item()

    shadow = Pupil(build_encoder(config.base, tokenizer.vocabulary), data.styles).to(device)

    def on_save(step: int) -> None:
        shadow.load_state_dict(average.shadow)
        report(shadow, *held, drawings, tokenizer.prefix, step, runs / "text")

    parts: dict[str, Stateful] = {"pupil": pupil, "optimisers": optimisers, "average": average}
    train(parts, step_fn, budget, runs / "text", on_save)


def is_inside(name: str) -> bool:
    """The matrices of the layers: not the embeddings, not the answers."""
    return name.startswith("encoder.layers.")


def reading_loss(found: dict[str, Tensor], labels: Tensor, drawings: Tensor) -> Tensor:
    """The sum over questions and looks of the mean over the captions that can answer them."""
    losses = []
    for i, (name, own) in enumerate(found.items()):
        known = labels[:, i] != UNKNOWN
        count = known.sum().clamp(1)
        if name in LOOKS:
            errors = (own[known] - drawings[labels[known, i]]).square().mean(dim=1)
            losses.append(LOOK_WEIGHT * errors.sum() / count)
        else:
            losses.append(F.cross_entropy(own, labels[:, i], reduction="sum") / count)
    return torch.stack(losses).sum()


@torch.no_grad()
def report(
    pupil: Pupil,
    tokens: list[list[int]],
    labels: Tensor,
    drawings: Tensor,
    template: list[int],
    step: int,
    folder: Path,
) -> None:
    """Of captions of held-out facts the right answers, and the share of the looks' variance that is
    told; and the encoder as it is."""
    shares = {}
    for i, (name, own) in enumerate(pupil(tokens, template).items()):
        known = labels[:, i] != UNKNOWN
        wanted = labels[known, i].to(own.device)
        if name in LOOKS:
            told = 1 - (own[known] - drawings[wanted]).square().mean()
        else:
            told = (own.argmax(dim=1)[known] == wanted).float().mean()
        shares[name] = round(float(told), 4)
    state = {name: p.cpu() for name, p in pupil.encoder.state_dict().items()}
    save_file(state, folder / "text.safetensors")
    write_json(folder / "text.json", {"accuracy": shares, "steps": step})
    print(f"text: step {step}  {shares}", flush=True)


def load_encoder(encoder: TextEncoder, runs: Path) -> None:
    path = runs / "text" / "text.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run the stage `text` first")
    encoder.load_state_dict(load_file(path))
