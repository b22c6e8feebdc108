"""The recipe of a picture: everything needed to paint it again, written into its PNG.

Knows the recipe's fields, the two text chunks that carry it (``danqing``: JSON, for danqing;
``parameters``: a line of text that other tools read) and how a file is written so that it is whole
or absent. Does not know pipelines, tensors or names of files.
"""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from danqing import atomic
from danqing.errors import RecipeError
from danqing.types import BLANK, Request
from danqing.version import __version__

_CHUNK = "danqing"
# What Pillow raises, by version and kind of damage, for a file that is no whole PNG.
_DAMAGE = (
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "prompt": str,
    "negative": str,
    "seed": int,
    "size": list,
    "sigmas": list,
    "guidance": (int, float),
    "adapters": dict,
    "profile": dict,
    "pixels_sha256": str,
}


def make(
    request: Request,
    model_id: str,
    fingerprint: str,
    sigmas: Sequence[float],
    profile: Mapping[str, str],
    image: Image.Image,
    adapters: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The recipe of a painted image, as a dict that JSON can hold.

    ``sigmas`` are the levels that were used, with or without the closing 0; ``adapters`` are the
    SHA-256 of the request's adapters, by their names.
    """
    digests = adapters or {}
    return {
        "danqing": __version__,
        "model": {"id": model_id, "fingerprint": fingerprint},
        "prompt": request.prompt,
        "negative": request.negative,
        "seed": request.seed,
        "size": list(image.size),
        "steps": sum(1 for sigma in sigmas if sigma > 0),
        "sigmas": [float(sigma) for sigma in sigmas],
        "guidance": 1.0 if request.guidance is None else float(request.guidance),
        "adapters": {
            name: {"strength": float(strength), "sha256": digests[name]}
            for name, strength in request.adapters.items()
        },
        "profile": dict(profile),
        "pixels_sha256": pixels_sha256(image),
    }


def to_request(recipe: Mapping[str, Any]) -> Request:
    """The request that paints a recipe (as ``read`` gives it) again."""
    return Request(
        prompt=recipe["prompt"],
        negative=recipe["negative"],
        seed=recipe["seed"],
        size=(recipe["size"][0], recipe["size"][1]),
        sigmas=tuple(recipe["sigmas"]),
        guidance=float(recipe["guidance"]),
        adapters={name: own["strength"] for name, own in recipe["adapters"].items()},
    )


def pixels_sha256(image: Image.Image) -> str:
    """SHA-256 of the RGB bytes, in hexadecimal."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def parameters_text(recipe: Mapping[str, Any]) -> str:
    """The recipe as the ``parameters`` text of AUTOMATIC1111's web UI, which many tools read."""
    width, height = recipe["size"]
    settings = {
        "Steps": recipe["steps"],
        "Sampler": "Euler",
        "CFG scale": f"{recipe['guidance']:g}",
        "Seed": recipe["seed"],
        "Size": f"{width}x{height}",
        "Model": _quoted(recipe["model"]["id"]),
        "Model hash": recipe["model"]["fingerprint"].rpartition(":")[2][:10],
        **_adapter_settings(recipe),
        "Version": f"danqing {recipe['danqing']}",
    }
    lines = [recipe["prompt"]]
    if recipe["negative"].strip(BLANK):
        lines.append(f"Negative prompt: {recipe['negative']}")
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items()))
    return "\n".join(lines).replace("\0", "")  # a PNG text chunk may not hold NUL


def _adapter_settings(recipe: Mapping[str, Any]) -> dict[str, str]:
    named = [f"{name} {own['strength']:g}" for name, own in recipe["adapters"].items()]
    return {"Adapters": _quoted(", ".join(named))} if named else {}


def _quoted(value: str) -> str:
    """A value as that text quotes it: only where it would be taken for several."""
    return json.dumps(value, ensure_ascii=False) if any(c in value for c in ",:\n") else value


def save_png(
    image: Image.Image,
    recipe: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> None:
    """Write the image with its recipe: the whole file appears under ``path``, or nothing does.

    Raises:
        OutputError: the file exists already (its cause is then a ``FileExistsError``), or the
            folder cannot be written, or is full.
    """
    chunks = PngInfo()
    # `add_text` takes an iTXt chunk where the text is not Latin-1.
    chunks.add_text(_CHUNK, json.dumps(recipe, ensure_ascii=False))
    chunks.add_text("parameters", parameters_text(recipe))
    picture = image.convert("RGB")
    atomic.write(
        path, lambda file: picture.save(file, format="PNG", pnginfo=chunks), overwrite=overwrite
    )


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The recipe in a picture that danqing has painted; ``RecipeError`` where there is none."""
    text = getattr(open_png(path), "text", {}).get(_CHUNK)
    if text is None:
        raise RecipeError(
            f"{path} carries no recipe; give a PNG as danqing wrote it (many programs drop the "
            "recipe when they save a picture again)"
        )
    try:
        recipe = json.loads(text)
        _check(recipe)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path} carries a damaged recipe: {error}; give the original") from error
    return dict(recipe)


def open_png(path: str | os.PathLike[str]) -> Image.Image:
    """A PNG with its pixels decoded; ``RecipeError`` for anything else."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
            return image
    except UnidentifiedImageError as error:
        raise RecipeError(f"{path} is not a PNG; give a picture that danqing wrote") from error
    except OSError as error:
        remedy = "check the name" if error.errno else "the file is cut short; give the original"
        raise RecipeError(f"cannot read {path}: {error.strerror or error}; {remedy}") from error
    except _DAMAGE as error:
        raise RecipeError(f"{path} is a damaged PNG ({error}); give the original") from error


def _check(recipe: Any) -> None:
    """``ValueError`` unless all fields that painting needs are there and of their types."""
    if not isinstance(recipe, dict):
        raise ValueError(f"it is a JSON {type(recipe).__name__}, not an object")
    for name, kind in _FIELDS.items():
        if name not in recipe:
            raise ValueError(f"field {name!r} is missing")
        if not isinstance(recipe[name], kind) or isinstance(recipe[name], bool):
            raise ValueError(f"field {name!r} is {recipe[name]!r}")
    if not all(isinstance(recipe["model"].get(name), str) for name in ("id", "fingerprint")):
        raise ValueError("field 'model' lacks its id or fingerprint")
    if len(recipe["size"]) != 2 or not all(type(pixels) is int for pixels in recipe["size"]):
        raise ValueError(f"field 'size' is {recipe['size']!r}")
    if not recipe["sigmas"] or not all(type(n) in (int, float) for n in recipe["sigmas"]):
        raise ValueError("the numbers of 'sigmas' are not numbers")
    for name, own in recipe["adapters"].items():
        known = isinstance(own, dict) and isinstance(own.get("sha256"), str)
        if not known or type(own.get("strength")) not in (int, float):
            raise ValueError(f"adapter {name!r} lacks its strength or sha256")
