"""Stage `score`: paint held-out prompts in both languages, and let the judge name the pictures.

The prompts name concept, style and background, a combination that training never saw. On shuffled
prompts (pictures judged against other concepts' names) the score must fall to chance: that shows
that it measures anything.
"""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import danqing
from recipes.mini import judge as judges
from recipes.mini.captions import prompts
from recipes.mini.colours import COLOURS
from recipes.mini.concepts import read_concepts
from recipes.mini.config import Config, DataConfig
from recipes.mini.crops import SIDE
from recipes.mini.facts import Facts
from recipes.mini.files import read_json, write_atomic
from recipes.mini.stream import Stream

STEPS, GUIDANCE, SEED = 30, 4.0, 1
PROMPTS = 240
RESULTS = Path(__file__).with_name("RESULTS.md")
SHEETS = ("en", "zh")


@dataclass(frozen=True)
class Scores:
    """Shares of pictures, one language."""

    prompts: int
    top1: float
    top5: float
    background: float
    shuffled: float


def run(config: Config, runs: Path, minutes: float | None) -> None:
    model = runs / "model" if (runs / "model").is_dir() else "mini"
    pipe = danqing.load(str(model))
    facts = scored_facts(config.data, runs)
    judge = judges.load(runs)
    started = time.monotonic()
    scores = {}
    for language, name in enumerate(SHEETS):
        images = paint(pipe, [prompts(f)[language] for f in facts])
        scores[name] = score(judge.classify(images), images, facts)
        contact_sheet(images, runs / "score" / f"{name}.png")
    seconds = time.monotonic() - started
    text = table(
        scores,
        read_json(runs / "judge" / "judge.json")["accuracy"],
        pipe.model.fingerprint,
        seconds,
    )
    write_atomic(runs / "score" / "table.md", text.encode())
    print(text)
    publish(text)


def scored_facts(data: DataConfig, runs: Path) -> list[Facts]:
    """One thing each, common ones, in held-out combinations only."""
    stream, number = Stream(data, runs, "held"), 0
    facts: list[Facts] = []
    while len(facts) < PROMPTS:
        drawn, number = stream.facts(number), number + 1
        if drawn.alone and drawn.concept.common and not drawn.ground.scene:
            facts.append(drawn)
    return facts


def paint(pipe: "danqing.Pipeline", texts: Sequence[str]) -> np.ndarray:
    """uint8 [n, H, W, 3]; every picture has the same seed, so that only the prompt differs."""
    requests = [danqing.Request(text, seed=SEED, steps=STEPS, guidance=GUIDANCE) for text in texts]
    painted = (result.image for result in pipe.generate(requests))
    return np.stack(
        [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)) for image in painted]
    )


def score(logits: Tensor, images: np.ndarray, facts: list[Facts]) -> Scores:
    classes = {concept.hex: i for i, concept in enumerate(read_concepts())}
    labels = torch.tensor([classes[f.concept.hex] for f in facts])
    best = logits.topk(5, dim=1).indices
    # Against the labels of another place: a rotation leaves hardly any label at home.
    strangers = labels.roll(len(labels) // 3 * 2)
    solid = [(i, f) for i, f in zip(images, facts, strict=True) if not f.ground.fade]
    return Scores(
        prompts=len(facts),
        top1=(best[:, 0] == labels).float().mean().item(),
        top5=(best == labels[:, None]).any(dim=1).float().mean().item(),
        background=float(np.mean([ground(image) == f.ground.colour for image, f in solid])),
        shuffled=(best[:, 0] == strangers).float().mean().item(),
    )


def ground(image: np.ndarray) -> str:
    """The named colour nearest to the median of the picture's rim."""
    rim = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    middle = np.median(rim, axis=0)
    return min(COLOURS, key=lambda name: float(np.abs(middle - np.array(COLOURS[name].rgb)).sum()))


def contact_sheet(images: np.ndarray, path: Path, columns: int = 20) -> None:
    rows = [np.concatenate(images[i : i + columns], axis=1) for i in range(0, len(images), columns)]
    sheet = Image.fromarray(np.concatenate([r for r in rows if r.shape == rows[0].shape]))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def table(
    scores: dict[str, Scores], judge: dict[str, float], fingerprint: str, seconds: float
) -> str:
    def row(name: str, pick: str) -> str:
        cells = [f"{100 * getattr(scores[language], pick):.1f} %" for language in SHEETS]
        return f"| {name} | {' | '.join(cells)} |"

    english = scores["en"]
    real = ", ".join(f"{style} {100 * share:.1f} %" for style, share in judge.items())
    chance = 100 / english.prompts
    lines = [
        f"Model {fingerprint}, {english.prompts} prompts in each language, {STEPS} steps, guidance "
        f"{GUIDANCE:g}, seed {SEED}; painted and judged in {seconds / 60:.1f} minutes on "
        f"{torch.get_num_threads()} threads of {platform.machine()}, torch {torch.__version__}, "
        f"danqing {danqing.__version__}. Command: `make score`.",
        "",
        "| | English | Chinese |",
        "|---|---|---|",
        row("concept, top-1", "top1"),
        row("concept, top-5", "top5"),
        row("background colour", "background"),
        row(f"concept, top-1, shuffled prompts (chance {chance:.1f} %)", "shuffled"),
        "",
        f"The judge's own accuracy on held-out renders: {real}.",
    ]
    return "\n".join(lines) + "\n"


def publish(text: str) -> None:
    """Put the table between the two marks of RESULTS.md."""
    start, end = "<!-- score -->\n", "<!-- /score -->\n"
    page = RESULTS.read_text(encoding="utf-8")
    before, rest = page.split(start, 1)
    after = rest.split(end, 1)[1]
    write_atomic(RESULTS, (before + start + "\n" + text + "\n" + end + after).encode())
