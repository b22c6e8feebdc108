"""The glyph bank: one RGBA raster for each style and concept, cut to the drawing and centred.

All glyphs fill the same square, so that a concept has the same size in every style. The rasters
are kept in ``art/STYLE.npz`` and made again when the package or the wanted concepts change.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recipes.mini.concepts import Concept
from recipes.mini.config import Config
from recipes.mini.fetch import package_folder
from recipes.mini.files import read_json, write_atomic
from recipes.mini.styles import Style, find_style

CELL = 192  # three times a 64-pixel picture: drawn large, reduced once
Bank = dict[tuple[str, str], Image.Image]
Draw = Callable[[str], Image.Image | None]


def load_bank(config: Config, concepts: list[Concept], runs: Path) -> Bank:
    """The glyphs of every chosen style; a concept that a style lacks is an error."""
    bank: Bank = {}
    for name in config.data.styles:
        for concept, glyph in zip(concepts, load_style(name, config, concepts, runs), strict=True):
            bank[name, concept.hex] = Image.fromarray(glyph)
    return bank


def load_style(name: str, config: Config, concepts: list[Concept], runs: Path) -> np.ndarray:
    style = find_style(name)
    key = f"{CELL} {config.packages[style.package].integrity} {[c.hex for c in concepts]}"
    path = runs / "art" / f"{name}.npz"
    if path.exists():
        with np.load(path) as cache:
            if str(cache["key"]) == key:
                return np.asarray(cache["glyphs"])
    draw = open_art(style, runs)
    glyphs = np.stack([np.asarray(make_glyph(draw, style, name, concept)) for concept in concepts])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, key=key, glyphs=glyphs)
    write_atomic(path, buffer.getvalue())
    return glyphs


def make_glyph(draw: Draw, style: Style, name: str, concept: Concept) -> Image.Image:
    image = draw(concept.hex)
    glyph = image and centre(image)
    if glyph is None:
        raise ValueError(
            f"style {name!r} has no drawing of {concept.en!r} ({concept.hex}); "
            "take the concept or the style out of [data]"
        )
    return fill_black(glyph) if style.silhouette_of else glyph


def centre(image: Image.Image, pad: int = 2) -> Image.Image | None:
    """Cut to what is seen, fit the longer side to the cell, centre; None if nothing is seen."""
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    if box is None:
        return None
    image = image.crop(box)
    scale = (CELL - 2 * pad) / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    cell = Image.new("RGBA", (CELL, CELL))
    at = ((CELL - size[0]) // 2, (CELL - size[1]) // 2)
    cell.paste(image.resize(size, Image.Resampling.LANCZOS), at)
    return cell


def fill_black(glyph: Image.Image) -> Image.Image:
    pixels = np.asarray(glyph).copy()
    pixels[..., :3] = 0
    pixels[..., 3][pixels[..., 3] <= 40] = 0  # soft shadows are not part of the outline
    return Image.fromarray(pixels)


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
        f'width="{2 * CELL}" height="{2 * CELL}">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
