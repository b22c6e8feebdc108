"""Stage `score`: paint held-out prompts in both languages, and let networks say what is in them.

Every prompt names a combination that training never saw. The same reading of real renders of the
same facts stands beside: no figure can be trusted above it. On shuffled prompts (pictures against
what others were asked for) every figure must fall to chance: that shows that it measures anything.
"""

import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import danqing
from danqing.models.vae import VAE
from recipes.mini import judge as judges
from recipes.mini import reader as readers
from recipes.mini.captions import prompts
from recipes.mini.colours import COLOURS
from recipes.mini.compose import layout
from recipes.mini.concepts import read_concepts
from recipes.mini.config import Config, DataConfig
from recipes.mini.facts import MOST, Facts
from recipes.mini.files import fill, read_json, write_atomic
from recipes.mini.judge import Judge
from recipes.mini.looks import SIZE, small, spots
from recipes.mini.plan import COMMON_WEIGHT
from recipes.mini.reader import Reader
from recipes.mini.stream import Picture, Stream
from recipes.mini.vae import psnr, to_bytes, to_float

STEPS, GUIDANCE, SEEDS = 30, 4.0, (1, 2)
PROMPTS = 120  # of each group
RESULTS = Path(__file__).with_name("RESULTS.md")
LANGUAGES = {"English": "en", "Chinese": "zh"}
Answers = dict[str, list[object]]  # None where a picture was not asked for it


@dataclass(frozen=True)
class Asked:
    """Facts, the number of each in its stream, and the group that each stands for."""

    facts: list[Facts]
    numbers: list[int]
    groups: list[str]


def run(config: Config, runs: Path, minutes: float | None) -> None:
    pipe = danqing.load(str(runs / "model" if (runs / "model").is_dir() else "mini"))
    asked, stream = held_facts(config.data, runs), Stream(config.data, runs, "held")
    judge, reader = judges.load(runs), readers.load(runs)
    started = time.monotonic()
    painted = {name: paint(pipe, asked.facts, language) for name, language in LANGUAGES.items()}
    seconds = time.monotonic() - started
    for name, images in painted.items():
        contact_sheet(small(images[0]), runs / "score" / f"{LANGUAGES[name]}.png")
    real = np.stack([stream.picture(n, SIZE).image for n in asked.numbers])
    others = np.stack([p.image for p in strangers(stream, asked)])
    columns = {
        name: mean([shares(judge, reader, one, asked) for one in images])
        for name, images in painted.items()
    }
    decoded = through(pipe.model.vae, real)
    columns["real renders"] = shares(judge, reader, real, asked)
    columns["after the VAE"] = shares(judge, reader, decoded, asked)
    halves = distance(judge, others, real)
    distances = {
        name: float(np.mean([distance(judge, one, real) for one in images])) / halves
        for name, images in painted.items()
    }
    distances |= {"real renders": 1.0, "after the VAE": distance(judge, decoded, real) / halves}
    told = facts_of(config, runs, pipe.model.fingerprint, seconds, asked)
    text = page(columns, distances, psnr(real, decoded), told)
    write_atomic(runs / "score" / "table.md", text.encode())
    print(text)
    fill(RESULTS, "score", text)


# ---- what is asked for ------------------------------------------------------------------------


def held_facts(data: DataConfig, runs: Path, count: int = PROMPTS) -> Asked:
    """Held-out combinations, ``count`` for each row of the table, in the order of the stream."""
    stream, asked, number = Stream(data, runs, "held"), Asked([], [], []), 0
    left = {name: count // MOST if name.startswith("count") else count for name in GROUPS}
    chance = random.Random(0)
    while any(left.values()):
        facts = stream.facts(number)
        group = next((name for name in left if left[name] and GROUPS[name](facts, chance)), None)
        if group:
            left[group] -= 1
            asked.facts.append(facts)
            asked.numbers.append(number)
            asked.groups.append(group)
        number += 1
    return asked


Group = Callable[[Facts, random.Random], bool]


def counted(number: int) -> Group:
    return lambda facts, _: facts.count == number and (number > 1 or facts.plain)


# A common thing is drawn more often than another; here all things weigh the same in "all".
GROUPS: dict[str, Group] = {
    **{f"count {number}": counted(number) for number in range(1, MOST + 1)},
    "place": lambda f, _: f.place is not None,
    "pair": lambda f, _: f.other is not None and not f.ground.scene,
    "all": lambda f, chance: (
        f.plain and (not f.concept.common or chance.random() * COMMON_WEIGHT < 1)
    ),
    "common": lambda f, _: f.plain and f.concept.common,
}


def strangers(stream: Stream, asked: Asked) -> Iterator[Picture]:
    """As many other pictures, of the same groups: real ones to compare real ones with."""
    number, chance, left = max(asked.numbers) + 1, random.Random(1), Counter(asked.groups)
    while +left:
        facts = stream.facts(number)
        group = next((name for name in +left if GROUPS[name](facts, chance)), None)
        if group:
            left[group] -= 1
            yield stream.picture(number, SIZE)
        number += 1


# ---- pictures ---------------------------------------------------------------------------------


def paint(pipe: "danqing.Pipeline", facts: Sequence[Facts], language: str) -> list[np.ndarray]:
    """For each seed uint8 [n, H, W, 3]; all pictures of one have it, so only the prompt differs."""
    texts = [prompts(f)[language == "zh"] for f in facts]
    painted = []
    for seed in SEEDS:
        requests = [
            danqing.Request(text, seed=seed, steps=STEPS, guidance=GUIDANCE, size=SIZE)
            for text in texts
        ]
        painted.append(np.stack([np.asarray(r.image) for r in pipe.generate(requests)]))
    return painted


@torch.inference_mode()
def through(vae: VAE, images: np.ndarray) -> np.ndarray:
    """Encoded and decoded: as sharp as anything that the model can paint."""
    parts = torch.from_numpy(images).split(32)
    return np.concatenate([to_bytes(vae.decode(vae.encode(to_float(part))[0])) for part in parts])


def ground(image: np.ndarray) -> str:
    """The named colour nearest to the median of the picture's rim."""
    rim = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    middle = np.median(rim, axis=0)
    return min(COLOURS, key=lambda name: float(np.abs(middle - np.array(COLOURS[name].rgb)).sum()))


def contact_sheet(images: np.ndarray, path: Path, columns: int = 24) -> None:
    rows = [np.concatenate(images[i : i + columns], axis=1) for i in range(0, len(images), columns)]
    sheet = Image.fromarray(np.concatenate([r for r in rows if r.shape == rows[0].shape]))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


# ---- what they show ---------------------------------------------------------------------------

# What each row is called, the least that is asked of it, and the aim.
ROWS = {
    "common": ("concept, the common things", 0.85, 0.95),
    "all": ("concept, all things", 0.65, 0.85),
    "background": ("background colour", 0.95, 0.99),
    "style": ("style", 0.90, 0.97),
    "count": ("count, 1 to 5", 0.70, 0.90),
    "place": ("position, 9", 0.75, 0.92),
    "pair": ("both objects of a pair", 0.55, 0.80),
}


def wanted(asked: Asked) -> Answers:
    every = list(zip(asked.facts, asked.groups, strict=True))
    solid = [(f, g in ("all", "common") and not f.ground.fade) for f, g in every]
    return {
        "common": [f.concept.hex if g == "common" else None for f, g in every],
        "all": [f.concept.hex if g == "all" else None for f, g in every],
        "background": [f.ground.colour if own else None for f, own in solid],
        "style": [f.style if g in ("all", "common") else None for f, g in every],
        "count": [f.count if g.startswith("count") else None for f, g in every],
        "place": [f.place if g == "place" else None for f, g in every],
        "pair": [
            (f.concept.hex, f.other.hex) if g == "pair" and f.other else None for f, g in every
        ],
    }


def answers(judge: Judge, reader: Reader, images: np.ndarray, facts: Sequence[Facts]) -> Answers:
    """What the networks see in pictures of SIZE."""
    named = names(judge, small(images))
    drawn = [layout(own, SIZE) for own in facts]
    firsts, seconds = (names(judge, spots(images, [own[n][-1] for own in drawn])) for n in (0, -1))
    return {
        "common": named,
        "all": named,
        "background": [ground(image) for image in images],
        **{name: list(own) for name, own in reader.read(images).items()},
        "pair": list(zip(firsts, seconds, strict=True)),
    }


def names(judge: Judge, images: np.ndarray) -> list[object]:
    concepts = read_concepts()
    return [concepts[int(i)].hex for i in judge.classify(images).argmax(dim=1)]


def shares(judge: Judge, reader: Reader, images: np.ndarray, asked: Asked) -> dict[str, float]:
    """Right answers in each row, and in each row of shuffled prompts."""
    return compare(answers(judge, reader, images, asked.facts), wanted(asked))


def compare(found: Answers, right: Answers) -> dict[str, float]:
    shares = {}
    for name, own in right.items():
        pairs = [(a, w) for a, w in zip(found[name], own, strict=True) if w is not None]
        given, told = zip(*pairs, strict=True)
        turn = len(told) // 3
        moved = told[turn:] + told[:turn]
        shares[name] = float(np.mean([a == w for a, w in pairs]))
        shares[f"{name}, shuffled"] = float(
            np.mean([a == w for a, w in zip(given, moved, strict=True)])
        )
        shares[f"{name}, chance"] = float(
            np.mean([a == w for a, w in zip(told, moved, strict=True)])
        )
    return shares


def mean(every: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([own[name] for own in every])) for name in every[0]}


def frechet(one: Tensor, two: Tensor) -> float:
    """Between normal distributions of features [n, C] (Heusel et al. 2017)."""
    centres = (one.mean(dim=0) - two.mean(dim=0)).square().sum()
    first, second = torch.cov(one.T), torch.cov(two.T)
    root = torch.linalg.eigvals(first @ second).sqrt().real.sum()
    return float(centres + first.trace() + second.trace() - 2 * root)


def distance(judge: Judge, images: np.ndarray, others: np.ndarray) -> float:
    """Of two sets of pictures in the judge's features."""
    return frechet(*(judge.describe(small(own)).double() for own in (images, others)))


# ---- the page ---------------------------------------------------------------------------------


def facts_of(config: Config, runs: Path, model: str, seconds: float, asked: Asked) -> list[str]:
    judge = read_json(runs / "judge" / "judge.json")["accuracy"]
    reader = read_json(runs / "reader" / "reader.json")["accuracy"]
    told = [f"{name} {100 * share:.1f} %" for own in (judge, reader) for name, share in own.items()]
    return [
        f"Model {model}, {len(asked.facts)} prompts of held-out combinations in each language, "
        f"{len(SEEDS)} seeds, {STEPS} steps, guidance {GUIDANCE:g}, {SIZE[0]}x{SIZE[1]}; painted "
        f"in {seconds / 60:.1f} minutes on {torch.get_num_threads()} threads of "
        f"{platform.machine()}, torch {torch.__version__}, danqing {danqing.__version__}. "
        "Command: `make score`.",
        f"The networks' own right answers on held-out renders: {', '.join(told)}.",
    ]


def page(
    columns: dict[str, dict[str, float]],
    distances: dict[str, float],
    sharpness: float,
    told: list[str],
) -> str:
    """``chance``: how often another prompt asks for the same."""
    heads = ["", "at least", "aim", *columns, "shuffled", "chance"]
    first = next(iter(columns.values()))
    rows = [heads, ["---"] * len(heads)]
    for name, (label, *goals) in ROWS.items():
        values = [own[name] for own in columns.values()]
        values += [first[f"{name}, shuffled"], first[f"{name}, chance"]]
        rows.append(
            [label, *(f"{100 * v:.0f} %" for v in goals), *(f"{100 * v:.1f} %" for v in values)]
        )
    far = (f"{distances[name]:.2f} x" for name in columns)
    rows.append(["distance to real renders in the judge's features", "3 x", "1.5 x", *far, "", ""])
    sharp = [*[""] * (len(columns) - 1), f"{sharpness:.1f} dB", "", ""]
    rows.append(["VAE, reconstructed renders", "26 dB", "30 dB", *sharp])
    table = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([told[0], "", *table, "", told[1]]) + "\n"
