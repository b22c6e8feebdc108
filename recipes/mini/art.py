"""The glyph bank: every drawing of every style, cut to what is seen, at one scale.

A style is one file of raw RGBA bytes, mapped into memory (processes share it), and an index that
tells where each glyph starts and how large it is. The longer side is always ``SIDE``, so that a
concept has the same size in every style.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recipes.mini.concepts import Concept, read_concepts
from recipes.mini.config import Config
from recipes.mini.fetch import package_folder
from recipes.mini.files import read_json, write_atomic, write_json
from recipes.mini.styles import Style, find_style

SIDE = 124  # as large as a thing gets in a picture whose shorter side is 128
DRAWN = 2 * SIDE  # vectors are drawn larger and reduced once
Draw = Callable[[str], Image.Image | None]
Key = tuple[str, str]  # style, code points
Glyphs = Mapping[Key, Image.Image]


class Bank(Mapping[Key, Image.Image]):
    """(style, hex) -> RGBA picture; styles lack some concepts."""

    def __init__(self, folder: Path, styles: tuple[str, ...]) -> None:
        self.places: dict[Key, list[int]] = {}
        self.pixels: dict[str, np.ndarray] = {}
        for style in styles:
            self.pixels[style] = np.memmap(folder / f"{style}.rgba", np.uint8, mode="r")
            index = read_json(folder / f"{style}.json")["glyphs"]
            self.places |= {(style, code): place for code, place in index.items()}

    def __getitem__(self, key: Key) -> Image.Image:
        start, width, height = self.places[key]
        flat = self.pixels[key[0]][start : start + 4 * width * height]
        return Image.fromarray(flat.reshape(height, width, 4))

    def __contains__(self, key: object) -> bool:
        return key in self.places

    def __iter__(self) -> Iterator[Key]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def load_bank(config: Config, runs: Path) -> Bank:
    """The glyphs of all styles, drawn now where they are not yet."""
    for name in config.data.styles:
        if draw_style(name, config, read_concepts(), runs):
            print(f"art: {name} drawn", flush=True)
    return Bank(runs / "art", config.data.styles)


def draw_style(name: str, config: Config, concepts: tuple[Concept, ...], runs: Path) -> bool:
    """False if the files are there; the index, written last, tells what they were made of."""
    style, index_path = find_style(name), runs / "art" / f"{name}.json"
    made_of = [SIDE, config.packages[style.package].integrity, [c.hex for c in concepts]]
    if index_path.exists() and read_json(index_path)["made_of"] == made_of:
        return False
    draw, parts, index, start = open_art(style, runs), [], {}, 0
    for concept in concepts:
        glyph = cut(draw(concept.hex))
        if glyph is not None:
            parts.append(glyph.tobytes())
            index[concept.hex] = [start, *glyph.size]
            start += len(parts[-1])
    write_atomic(runs / "art" / f"{name}.rgba", b"".join(parts))
    write_json(index_path, {"made_of": made_of, "glyphs": index})
    return True


def cut(image: Image.Image | None) -> Image.Image | None:
    """Only what is seen, its longer side scaled to ``SIDE``; None if nothing is."""
    if image is None:
        return None
    box = image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    if box is None:
        return None
    image = image.crop(box)
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def open_art(style: Style, runs: Path) -> Draw:
    """A function from code points to a picture, for either kind of package."""
    folder = package_folder(runs, style.package)
    if not folder.exists():
        raise FileNotFoundError(f"{folder} is missing; run the stage `fetch` first")
    if (folder / "icons.json").exists():
        return open_iconify(folder, package_folder(runs, style.slugs or style.package))
    files = {bare(path.stem): path for path in sorted((folder / "assets").glob("*.webp"))}
    return lambda code: Image.open(files[code]).convert("RGBA") if code in files else None


def open_iconify(folder: Path, slug_folder: Path) -> Draw:
    icons = read_json(folder / "icons.json")
    slugs: dict[str, str] = {}
    for code, slug in read_json(slug_folder / "chars.json").items():
        slugs.setdefault(bare(code), slug)
    return lambda code: rasterise(icons, slugs[code]) if code in slugs else None


def bare(code: str) -> str:
    """Code points without the variation selector, which packages write or leave out at will."""
    return code.replace("-fe0f", "")


def rasterise(icons: dict[str, Any], slug: str) -> Image.Image | None:
    import resvg_py  # in the extra `recipe`

    slug = icons.get("aliases", {}).get(slug, {}).get("parent", slug)
    icon = icons["icons"].get(slug)
    if icon is None:
        return None
    width, height = (icon.get(k, icons.get(k, 16)) for k in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" '
        f'width="{DRAWN}" height="{DRAWN}">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
