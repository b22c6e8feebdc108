"""What goes into the engine and what comes out. No torch here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

BLANK = " "  # Qwen-Image's usual negative prompt


@dataclass(frozen=True)
class Request:
    """One picture. ``None`` takes the model's own default.

    Attributes:
        prompt: what to paint, in English or Chinese.
        negative: what to steer away from; used where ``guidance`` > 1.
        seed: of the picture's own noise, 0 <= seed < 2**63.
        size: (width, height) in pixels, multiples of the model's patch (16 with Qwen-Image).
        steps: network evaluations along the schedule.
        sigmas: a plain list of falling noise levels in place of ``steps``; the closing 0 may be
            left out.
        guidance: scale of classifier-free guidance; 1 is none.
        adapters: names or files of adapters, with their strengths; 1 is an adapter as it was made.
    """

    prompt: str
    negative: str = BLANK
    seed: int = 0
    size: tuple[int, int] | None = None
    steps: int | None = None
    sigmas: tuple[float, ...] | None = None
    guidance: float | None = None
    adapters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """A step was made for the pictures ``indices`` (their places in the list of requests).

    ``preview()`` decodes what they look like by now, as a list of PIL images; it costs a decode.
    """

    step: int
    steps: int
    indices: tuple[int, ...]
    preview: Callable[[], "list[Image]"]


@dataclass(frozen=True)
class Result:
    """A finished picture.

    ``recipe`` is everything needed to paint it again (see ``danqing.recipe``); ``timings`` are
    seconds for ``encode``, ``denoise`` and ``decode``, of the pack in which the picture rode.
    """

    index: int
    request: Request
    image: "Image"
    recipe: dict[str, Any]
    timings: dict[str, float]
