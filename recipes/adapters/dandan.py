"""Dandan, the painter: a character that mini never saw, drawn here.

Vermilion body, azure beret, cream face with two dark eyes: large shapes, which mini's VAE keeps.
Poses differ in arms, gaze, lean and side. The decoys differ from it in one feature each.
"""

import io
import itertools
from dataclasses import dataclass, replace

from PIL import Image

from recipes.mini.art import DRAWN, cut

RED, AZURE, CREAM, INK = "#de2c30", "#2868e0", "#fce6b4", "#101012"
# Degrees from upright, left and right.
ARMS = {"down": (150, 150), "up": (30, 30), "wave": (30, 150)}


@dataclass(frozen=True)
class Pose:
    """How Dandan stands, and what it is made of."""

    arms: str = "down"
    gaze: float = 0.0  # how far the eyes are aside
    lean: float = 0.0  # degrees
    mirrored: bool = False
    body: str = RED
    beret: str | None = AZURE
    face: str | None = CREAM
    num_eyes: int = 2


def poses() -> list[Pose]:
    """All 24 in a fixed order in which neighbours differ."""
    every = itertools.product((-8.0, 8.0), (False, True), (0.0, 8.0), ARMS)
    found = [Pose(arms, gaze, lean, mirrored) for lean, mirrored, gaze, arms in every]
    return [found[7 * i % len(found)] for i in range(len(found))]


def decoys(pose: Pose) -> list[Pose]:
    """The pose with another body, another beret or none, another face or none, or one eye."""
    bodies = ("#38a64c", "#fcd632", "#8642c4", AZURE)
    berets = ("#38a64c", "#fcd632", RED, None)
    return [
        *(replace(pose, body=colour) for colour in bodies),
        *(replace(pose, beret=colour) for colour in berets),
        *(replace(pose, face=colour) for colour in ("#38a64c", None)),
        replace(pose, num_eyes=1),
    ]


def glyph(pose: Pose) -> Image.Image:
    import resvg_py  # in the extra `recipe`

    png = resvg_py.svg_to_bytes(svg_string=svg(pose), skip_system_fonts=True)
    image = cut(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
    assert image is not None
    return image


def svg(pose: Pose) -> str:
    side = "translate(200 0) scale(-1 1)" if pose.mirrored else ""
    parts = [*feet(), *arms(pose), *torso(pose), *eyes(pose), *hat(pose)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-30 -40 260 260" '
        f'width="{DRAWN}" height="{DRAWN}"><g transform="{side} rotate({pose.lean} 100 110)">'
        f"{''.join(parts)}</g></svg>"
    )


def feet() -> list[str]:
    return [ellipse(x, 190, 22, 12, INK) for x in (72, 128)]


def arms(pose: Pose) -> list[str]:
    left, right = ARMS[pose.arms]
    at = ((32, -left), (168, right))
    return [
        f'<g transform="rotate({turn} {x} 128)">{ellipse(x, 92, 17, 44, pose.body)}</g>'
        for x, turn in at
    ]


def torso(pose: Pose) -> list[str]:
    face = [ellipse(100, 112, 62, 48, pose.face)] if pose.face else []
    return [ellipse(100, 112, 82, 76, pose.body), *face]


def eyes(pose: Pose) -> list[str]:
    places = (70, 130) if pose.num_eyes == 2 else (100,)
    return [ellipse(x + pose.gaze, 108, 17, 22, INK) for x in places]


def hat(pose: Pose) -> list[str]:
    if pose.beret is None:
        return []
    stalk = f'<rect x="114" y="-18" width="12" height="28" rx="6" fill="{pose.beret}"/>'
    return [stalk, f'<g transform="rotate(8 100 36)">{ellipse(108, 36, 74, 32, pose.beret)}</g>']


def ellipse(x: float, y: float, rx: float, ry: float, fill: str) -> str:
    return f'<ellipse cx="{x}" cy="{y}" rx="{rx}" ry="{ry}" fill="{fill}"/>'
