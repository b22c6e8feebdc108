"""Stage `text`: the text encoder learns to read before anything is painted.

What a caption says is told from the mean of its features, so "a fox", "RED FOX" and "一只狐狸" come
to lie together. The pictures then teach every thing once, not once for each of its names; and
reading alone is many times cheaper than painting.
"""

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from danqing.models.text_encoder import TextEncoder, TextEncoderConfig
from danqing.models.tokenizer import PromptTokenizer
from recipes.mini.art import load_bank
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
    """The encoder and a linear answer to every question."""

    def __init__(self, encoder: TextEncoder, styles: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        sizes = {name: len(own) for name, own in questions(styles).items()}
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in sizes.items()})
        initialise(self)

    def forward(self, tokens: list[list[int]], template: list[int]) -> dict[str, Tensor]:
        """Logits of each question, [captions, answers]"""
        own = features(self.encoder, tokens, template).split([len(t) for t in tokens])
        means = torch.stack([rows.mean(dim=0) for rows in own])
        return {name: head(means) for name, head in self.heads.items()}


class Captions(Dataset[tuple[list[list[int]], Tensor]]):
    """steps[n]: tokens of captions in both languages, by length; labels [captions, questions]."""

    def __init__(self, stream: Stream, tokenizer: PromptTokenizer, facts: int, seed: int) -> None:
        self.stream, self.tokenizer, self.facts, self.seed = stream, tokenizer, facts, seed
        self.index = {
            name: {answer: i for i, answer in enumerate(own)}
            for name, own in questions(stream.styles).items()
        }

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
        return [self.index[name].get(own, UNKNOWN) for name, own in answers(facts).items()]


def run(config: Config, runs: Path, minutes: float | None) -> None:
    stage, data = config.text, config.data
    load_bank(config, runs)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(stage.seed)
    tokenizer = PromptTokenizer.from_folder(runs / "tokenizer")
    pupil = Pupil(build_encoder(config.base, tokenizer.vocabulary), data.styles).to(device)
    average = Average(pupil, stage.ema)
    optimisers = Optimisers(pupil, is_inside, stage)
    budget = Budget(stage.captions, stage.batch, minutes)
    steps = Captions(Stream(data, runs, "train"), tokenizer, stage.batch // 2, stage.seed)
    held = Captions(Stream(data, runs, "held"), tokenizer, HELD, stage.seed)[0]
    source = None

    def step_fn(step: int) -> float:
        nonlocal source
        source = source or batches(steps, step, budget.steps, device)
        tokens, labels = next(source)
        loss = reading_loss(pupil(tokens, tokenizer.prefix), labels.to(device))
        optimisers.step(loss, step, budget.steps)
        average.update(step)
        return loss.item()

    shadow = Pupil(build_encoder(config.base, tokenizer.vocabulary), data.styles).to(device)

    def on_save(step: int) -> None:
        shadow.load_state_dict(average.shadow)
        report(shadow, *held, tokenizer.prefix, step, runs / "text")

    parts: dict[str, Stateful] = {"pupil": pupil, "optimisers": optimisers, "average": average}
    train(parts, step_fn, budget, runs / "text", on_save)


def is_inside(name: str) -> bool:
    """The matrices of the layers: not the embeddings, not the answers."""
    return name.startswith("encoder.layers.")


def reading_loss(logits: dict[str, Tensor], labels: Tensor) -> Tensor:
    """The sum over the questions of the mean over the captions that can answer them."""
    losses = [
        F.cross_entropy(own, labels[:, i], reduction="sum")
        / (labels[:, i] != UNKNOWN).sum().clamp(1)
        for i, own in enumerate(logits.values())
    ]
    return torch.stack(losses).sum()


@torch.no_grad()
def report(
    pupil: Pupil,
    tokens: list[list[int]],
    labels: Tensor,
    template: list[int],
    step: int,
    folder: Path,
) -> None:
    """Right answers to captions of held-out facts, and the encoder as it is."""
    shares = {}
    for i, (name, own) in enumerate(pupil(tokens, template).items()):
        known = labels[:, i] != UNKNOWN
        right = own.argmax(dim=1).cpu()[known] == labels[known, i]
        shares[name] = round(float(right.float().mean()), 4)
    state = {name: p.cpu() for name, p in pupil.encoder.state_dict().items()}
    save_file(state, folder / "text.safetensors")
    write_json(folder / "text.json", {"accuracy": shares, "steps": step})
    print(f"text: step {step}  {shares}", flush=True)


def load_encoder(encoder: TextEncoder, runs: Path) -> None:
    path = runs / "text" / "text.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run the stage `text` first")
    encoder.load_state_dict(load_file(path))
