"""The named colours: what captions call them and what they look like."""

from dataclasses import dataclass

WHITE = "white"
RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Colour:
    zh: str
    rgb: RGB


COLOURS = {
    WHITE: Colour("白色", (250, 250, 250)),
    "black": Colour("黑色", (16, 16, 18)),
    "gray": Colour("灰色", (140, 142, 146)),
    "red": Colour("红色", (222, 44, 48)),
    "orange": Colour("橙色", (250, 138, 30)),
    "yellow": Colour("黄色", (252, 214, 50)),
    "green": Colour("绿色", (56, 166, 76)),
    "blue": Colour("蓝色", (40, 104, 224)),
    "light blue": Colour("浅蓝色", (150, 208, 248)),
    "purple": Colour("紫色", (134, 66, 196)),
    "pink": Colour("粉色", (250, 158, 196)),
    "brown": Colour("棕色", (126, 82, 48)),
    "teal": Colour("青色", (32, 168, 168)),
    "beige": Colour("米色", (240, 226, 196)),
}
# What a thing can be dyed in: beige and light blue are told from white by nobody on a thing.
TINTS = tuple(name for name in COLOURS if name not in ("beige", "light blue"))


def find_colour(name: str) -> Colour:
    if name not in COLOURS:
        raise ValueError(f"colour {name!r} is unknown; known: {', '.join(COLOURS)}")
    return COLOURS[name]


def distance(a: RGB, b: RGB) -> int:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))
