"""Stage `data`: the pictures and their captions, in shards.

What is drawn follows from [data] alone: the same section gives the same pixels. Each picture has
its own random stream, named by its id, so shards can be made in any order and after any kill.
"""

import hashlib
import io
import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from recipes.mini.art import Bank, load_bank
from recipes.mini.captions import captions
from recipes.mini.colours import WHITE, find_colour
from recipes.mini.compose import clash, compose
from recipes.mini.concepts import Concept, choose_concepts
from recipes.mini.config import Config, DataConfig
from recipes.mini.facts import Facts, Picture, held_out, spread
from recipes.mini.files import read_json, write_atomic, write_json
from recipes.mini.sheet import write_sheet
from recipes.mini.styles import find_style

Record = dict[str, Any]


def run(config: Config, runs: Path, minutes: float | None) -> None:
    data, folder = config.data, runs / "data"
    concepts = choose_concepts(data.concepts, data.num_concepts)
    bank = load_bank(config, concepts, runs)
    train, held = split(plan(data, concepts, bank), data)
    counts = {"train": len(train), "held": len(held), "concepts": len(concepts)}
    write_manifest(folder / "manifest.json", config, concepts, counts)
    for name, pictures in (("train", train), ("held", held)):
        for number, start in enumerate(range(0, len(pictures), data.shard_pictures)):
            part = pictures[start : start + data.shard_pictures]
            path = folder / f"{name}-{number:05d}.npz"
            made = write_shard(path, part, bank, data)
            print(f"data: {path.name} {len(part)} pictures{'' if made else ', already there'}")
    write_sheet(folder, data.seed)


def plan(data: DataConfig, concepts: list[Concept], bank: Bank) -> Iterator[Picture]:
    """Every picture that can be seen: a glyph is never drawn on its own colour."""
    for concept in concepts:
        for style in data.styles:
            for background in (WHITE, *data.backgrounds):
                facts = Facts(concept, style, background)
                glyph = bank[style, concept.hex]
                if not facts.plain and clash(glyph, find_colour(background).rgb):
                    continue
                variants = data.plain_variants if facts.plain else data.colour_variants
                yield from (Picture(facts, variant) for variant in range(variants))


def split(pictures: Iterator[Picture], data: DataConfig) -> tuple[list[Picture], list[Picture]]:
    """Training and held-out pictures, each shuffled: every shard is a mixture."""
    train: list[Picture] = []
    held: list[Picture] = []
    for picture in pictures:
        (held if held_out(picture.facts, data.holdout_percent) else train).append(picture)
    for part in (train, held):
        part.sort(key=lambda picture: (spread(f"{data.seed}|{picture.id}"), picture.id))
    return train, held


def draw(picture: Picture, bank: Bank, data: DataConfig) -> tuple[np.ndarray, Record]:
    facts = picture.facts
    image = compose(facts, bank, random.Random(f"{data.seed}|pixels|{picture.id}"), data.size)
    en, zh = captions(random.Random(f"{data.seed}|words|{picture.id}"), facts)
    record = {
        "id": picture.id,
        "concept": facts.concept.hex,
        "en": facts.concept.en,
        "zh": facts.concept.zh,
        "style": facts.style,
        "background": facts.background,
        "captions_en": en,
        "captions_zh": zh,
    }
    return image, record


def write_shard(path: Path, pictures: list[Picture], bank: Bank, data: DataConfig) -> bool:
    """False if the shard is there: it is renamed into place, so it is whole."""
    if path.exists():
        return False
    images, records = zip(*(draw(picture, bank, data) for picture in pictures), strict=True)
    buffer = io.BytesIO()
    text = json.dumps(records, ensure_ascii=False)
    np.savez_compressed(buffer, images=np.stack(images), records=np.array(text))
    write_atomic(path, buffer.getvalue())
    return True


def write_manifest(
    path: Path, config: Config, concepts: list[Concept], counts: dict[str, int]
) -> None:
    """Written before the first shard; a folder never mixes two configurations."""
    data = config.data
    packages = {name: config.packages[find_style(name).package] for name in data.styles}
    settings = {"data": asdict(data), "art": {k: asdict(v) for k, v in packages.items()}}
    wording = [asdict(concept) for concept in concepts]
    digest = hashlib.sha256(json.dumps([settings, wording], sort_keys=True).encode()).hexdigest()
    if path.exists() and read_json(path)["config_sha256"] != digest:
        raise ValueError(
            f"{path.parent} was made with other settings; remove the folder or use another --runs"
        )
    licences = {
        name: {"licence": style.licence, "artist": style.artist, "package": style.package}
        for name, style in ((name, find_style(name)) for name in data.styles)
    }
    value = {"config_sha256": digest, "counts": counts, "licences": licences, **settings}
    write_json(path, value)
