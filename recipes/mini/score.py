"""Stage `score`: paint prompts over all concepts in both languages, and let the judge name them.

The prompts name concept, style and background; half of them a coloured background, a held-out
combination where the concept has one. On shuffled prompts (pictures judged against other
concepts' names) the score must fall to chance: that shows that it measures anything.
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
from recipes.mini.colours import COLOURS, WHITE
from recipes.mini.concepts import choose_concepts
from recipes.mini.config import Config, DataConfig
from recipes.mini.facts import Facts, held_out, spread
from recipes.mini.files import read_json, write_atomic
from recipes.mini.shards import load_pictures

STEPS, GUIDANCE, SEED = 30, 4.0, 1
RESULTS = Path(__file__).with_name("RESULTS.md")
SHEETS = ("en", "zh")


@dataclass(frozen=True)
class Scores:
    """Shares of pictures, one language; ``held`` counts held-out combinations only."""

    prompts: int
    top1: float
    top5: float
    background: float
    held_prompts: int
    held_top1: float
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
        scores[name] = score(judge.classify(images), images, facts, config.data)
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
    """Two for every concept, in different styles: one plain, one before a colour.

    Only what can be drawn is asked for: a yellow chick before yellow is in no shard.
    """
    coloured = {
        split: {
            (r["concept"], r["style"], r["background"])
            for r in load_pictures(runs / "data", split).records
            if r["background"] != WHITE
        }
        for split in ("train", "held")
    }
    facts = []
    for number, concept in enumerate(choose_concepts(data.concepts, data.num_concepts)):
        plain, style = (data.styles[(number + i) % len(data.styles)] for i in (0, 1))
        found = {
            split: sorted(g for code, s, g in drawn if (code, s) == (concept.hex, style))
            for split, drawn in coloured.items()
        }
        pool = found["held"] or found["train"]
        background = pool[spread(f"score|{concept.hex}") % len(pool)]
        facts += [Facts(concept, plain, WHITE), Facts(concept, style, background)]
    return facts


def paint(pipe: "danqing.Pipeline", texts: Sequence[str]) -> np.ndarray:
    """uint8 [n, H, W, 3]; every picture has the same seed, so that only the prompt differs."""
    requests = [danqing.Request(text, seed=SEED, steps=STEPS, guidance=GUIDANCE) for text in texts]
    return np.stack([np.asarray(result.image) for result in pipe.generate(requests)])


def score(logits: Tensor, images: np.ndarray, facts: list[Facts], data: DataConfig) -> Scores:
    classes = {name: i for i, name in enumerate(data.concepts)}
    labels = torch.tensor([classes[f.concept.en] for f in facts])
    best = logits.topk(5, dim=1).indices
    right = best[:, 0] == labels
    held = torch.tensor([held_out(f, data.holdout_percent) for f in facts])
    # Against the labels of another place: a rotation leaves no label at home.
    strangers = labels.roll(len(labels) // 3 * 2)
    grounds = [ground(image, data) == f.background for image, f in zip(images, facts, strict=True)]
    return Scores(
        prompts=len(facts),
        top1=right.float().mean().item(),
        top5=(best == labels[:, None]).any(dim=1).float().mean().item(),
        background=float(np.mean(grounds)),
        held_prompts=int(held.sum()),
        held_top1=right[held].float().mean().item(),
        shuffled=(best[:, 0] == strangers).float().mean().item(),
    )


def ground(image: np.ndarray, data: DataConfig) -> str:
    """The named colour nearest to the median of the picture's rim."""
    rim = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    middle = np.median(rim, axis=0)
    names = (WHITE, *data.backgrounds)
    return min(names, key=lambda name: float(np.abs(middle - np.array(COLOURS[name].rgb)).sum()))


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
    chance = 100 / (english.prompts / 2)
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
        row(f"concept, top-1, the {english.held_prompts} held-out combinations", "held_top1"),
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
