"""Requests made whole and checked, before any work is done. No tensors here."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from danqing.adapters.adapter import Sampling
from danqing.errors import RequestError
from danqing.models.tokenizer import PromptTokenizer
from danqing.models.transformer import MAX_POSITION
from danqing.sampling.schedule import check_sigmas
from danqing.types import BLANK, Request
from danqing.weights.model import Defaults

MAX_STEPS = 1000  # the schedule was trained on so many levels
MAX_SEED = 2**63 - 1
MAX_ADAPTERS = 32  # of one picture
MAX_STRENGTH = 100  # far beyond what makes a picture; more would overflow


def complete(request: Request, defaults: Defaults, made: Sampling | None = None) -> Request:
    """The request with defaults where it is silent: those of its adapters, then the model's.

    ``made`` is the sampling that its adapters were made for.
    """
    sigmas, steps, guidance = request.sigmas, request.steps, request.guidance
    if sigmas is not None:
        sigmas = tuple(check_sigmas(sigmas))
        if steps not in (None, len(sigmas) - 1):
            raise RequestError(
                f"steps {steps} and {len(sigmas) - 1} sigmas disagree; leave one of them out"
            )
        steps = len(sigmas) - 1
    else:
        own = made or Sampling(defaults.steps, defaults.sigmas)
        steps = own.steps if steps is None else steps
        sigmas = own.levels(steps)
    if made and guidance is None:
        guidance = made.guidance
    return replace(
        request,
        size=defaults.size if request.size is None else request.size,
        steps=steps,
        sigmas=sigmas,
        guidance=defaults.guidance if guidance is None else guidance,
    )


def check(request: Request, tokenizer: PromptTokenizer, unit: int) -> None:
    """RequestError for what cannot be painted; ``unit`` is the pixels of a patch's side."""
    check_text("prompt", request.prompt)
    check_text("negative prompt", request.negative)
    check_whole("seed", request.seed, 0, MAX_SEED)
    check_whole("steps", request.steps, 1, MAX_STEPS)
    check_guidance(request.guidance)
    texts = [request.prompt] if request.guidance == 1 else [request.prompt, request.negative]
    check_size(request.size, unit, max(len(tokenizer.encode(text)) for text in texts))


def check_request(request: Request) -> None:
    """What must hold before anything is looked up: a request, and names with strengths."""
    if not isinstance(request, Request):
        raise RequestError(f"{request!r} is not a danqing.Request; write Request({request!r})")
    check_adapters(request.adapters)


def check_adapters(strengths: Any) -> None:
    if not isinstance(strengths, Mapping):
        raise RequestError(f'adapters {strengths!r} must be names with strengths: {{"ink": 0.8}}')
    if len(strengths) > MAX_ADAPTERS:
        raise RequestError(
            f"{len(strengths)} adapters for one picture, at most {MAX_ADAPTERS} are applied; "
            "combine some with: danqing adapter combine"
        )
    for name, strength in strengths.items():
        check_text("adapter", name)
        number = isinstance(strength, int | float) and not isinstance(strength, bool)
        if not number or not abs(strength) <= MAX_STRENGTH:
            raise RequestError(
                f"strength {strength!r} of adapter {name!r} must be a number from "
                f"-{MAX_STRENGTH} to {MAX_STRENGTH}, usually from 0 to 1"
            )


def check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise RequestError(f"{name} {text!r} is a {type(text).__name__}; give a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{name} {text!r} holds half a character; give valid Unicode") from None


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} {value!r} must be a whole number from {low} to {high}")


def check_guidance(value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 1 <= value < 1e30:  # beyond it single precision ends
        raise RequestError(f"guidance {value!r} must be a number from 1 (none) upwards, usually 4")


def check_size(size: Any, unit: int, text: int) -> None:
    try:
        width, height = size
    except (TypeError, ValueError):
        raise RequestError(f"size {size!r} must be (width, height)") from None
    for name, pixels in (("width", width), ("height", height)):
        if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels <= 0 or pixels % unit:
            raise RequestError(
                f"{name} {pixels!r} must be a positive multiple of {unit} pixels"
                f"{nearest(pixels, unit)}"
            )
    longest = max(width, height) // unit
    limit = 2 * (MAX_POSITION - text) * unit
    if longest // 2 + text > MAX_POSITION:
        raise RequestError(
            f"size {width}x{height} is beyond the model's positions; with this prompt of {text} "
            f"tokens a side is at most {limit} pixels"
        )


def nearest(pixels: Any, unit: int) -> str:
    if not isinstance(pixels, int) or pixels <= 0:
        return ""
    below, above = pixels // unit * unit, -(-pixels // unit) * unit
    return f"; nearest: {below} or {above}" if below else f"; nearest: {above}"


def warn(
    requests: Sequence[Request],
    made: Sequence[Sampling | None],
    defaults: Defaults,
    model: str,
) -> None:
    """Say what has no effect, and what the model and the adapters were not made for."""
    for request, sampling in zip(requests, made, strict=True):
        if sampling and not follows(request, sampling):
            warnings.warn(
                f"an adapter was made for {sampling}; other sampling will look wrong", stacklevel=4
            )
            break
    if any(r.guidance == 1 and r.negative != BLANK for r in requests):
        warnings.warn("the negative prompt has no effect at guidance 1", stacklevel=4)
    sizes = {tuple(r.size) for r in requests if r.size is not None}
    foreign = sorted(sizes - set(defaults.sizes)) if defaults.sizes else []
    if foreign:
        trained = ", ".join(f"{w}x{h}" for w, h in defaults.sizes)
        width, height = foreign[0]
        warnings.warn(
            f"{model} was trained at {trained}; {width}x{height} will look wrong", stacklevel=4
        )


def follows(request: Request, sampling: Sampling) -> bool:
    """Whether the request samples as its adapter was made for."""
    levels = sampling.levels(request.steps)
    known = levels is None or request.sigmas == levels
    guidance = sampling.guidance is None or request.guidance == sampling.guidance
    return sampling.serves(request.steps) and known and guidance


def is_about(request: Request, sampling: Sampling) -> bool:
    """Whether the request's own steps or levels are those of this sampling."""
    if request.sigmas is not None:
        return tuple(check_sigmas(request.sigmas)) in (sampling.sigmas, *sampling.also)
    return sampling.serves(request.steps)
