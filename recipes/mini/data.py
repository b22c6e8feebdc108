"""Stage `data`: the glyphs of every style, and a sheet of what is composed from them.

Pictures are not stored: they are composed while a network trains on them (stream.py). What is drawn
follows from [data] and the pinned packages alone.
"""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

from recipes.mini.art import Bank, load_bank
from recipes.mini.concepts import read_concepts
from recipes.mini.config import Config
from recipes.mini.files import write_json
from recipes.mini.sheet import write_sheet
from recipes.mini.stream import Stream
from recipes.mini.styles import find_style


def run(config: Config, runs: Path, minutes: float | None) -> None:
    bank = load_bank(config, runs)
    manifest = describe(config, bank)
    write_json(runs / "data" / "manifest.json", manifest)
    print(f"data: {manifest['counts']}", flush=True)
    for split in ("train", "held"):
        write_sheet(Stream(config.data, runs, split), runs / "data" / split)


def describe(config: Config, bank: Bank) -> dict[str, object]:
    """What there is, and whose it is: the licences travel with the model."""
    concepts, styles = read_concepts(), Counter(style for style, _ in bank)
    counts = {"concepts": len(concepts), "common": sum(c.common for c in concepts), **styles}
    owners = {name: find_style(name) for name in config.data.styles}
    licences = {
        name: {"licence": style.licence, "artist": style.artist, "package": style.package}
        for name, style in owners.items()
    }
    return {"counts": counts, "data": asdict(config.data), "licences": licences}
