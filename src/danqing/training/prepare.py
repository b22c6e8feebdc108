"""From settings to a training that can begin: data checked, encoded and forgotten, memory planned.

What takes memory comes and goes in this order: the encoders, which fill the cache and leave; then
the transformer, with what is trained beside it.
"""

import gc
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from PIL import ImageColor
from torch import Tensor

from danqing.errors import TrainingError
from danqing.models.text_encoder import TextEncoder
from danqing.models.tokenizer import PromptTokenizer
from danqing.models.transformer import Transformer, TransformerConfig
from danqing.models.vae import VAE
from danqing.training.cache import Cache, Stamp
from danqing.training.data.buckets import Buckets
from danqing.training.data.captions import all_texts
from danqing.training.data.check import check
from danqing.training.data.encode import Encoders, fill
from danqing.training.data.gather import gather
from danqing.training.data.images import Colour
from danqing.training.data.pictures import Picture, plan
from danqing.training.data.records import Source
from danqing.training.loop import Training
from danqing.training.loss import Draw, Example, sigma_sampler
from danqing.training.measure import SIGMAS, levels_at_once
from danqing.training.memory import (
    checkpoint_blocks,
    lay_large_tensors_apart,
    quantise_blocks,
)
from danqing.training.plan import Around
from danqing.training.settings import Outcome, Settings
from danqing.training.simulate import Shapes
from danqing.training.stock import Stock, Take
from danqing.training.subject import FullSubject, LoraSubject
from danqing.types import BLANK
from danqing.weights import configs, model
from danqing.weights.files import dtype_named
from danqing.weights.hub import find

KEPT_IN_MEMORY = 4096  # latents and text features each; the rest is read again
USUAL_TEXT = 128  # tokens of a caption that is not known yet
MOST_APART = 24  # more would take long to measure, and narrow the band by little
FEWEST_TO_SPLIT = 10  # pictures; of fewer none is kept apart
Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where a model is and how it is computed with."""

    folder: Path
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Pictures:
    """What is learnt from, and what is kept apart; ``digest`` is of all that they hold."""

    learnt: list[Picture]
    held_out: list[Picture]
    digest: str


class Shelf:
    """The cache, with what was read last in memory."""

    def __init__(self, cache: Cache) -> None:
        self.latents = lru_cache(KEPT_IN_MEMORY)(lambda p: cache.latent(cache.latent_key(p)))
        self.text = lru_cache(KEPT_IN_MEMORY)(lambda c: cache.text(cache.text_key(c)))


def place_of(settings: Outcome, device: torch.device) -> Place:
    """The settings' dtype, or float32 on a CPU and bfloat16 elsewhere."""
    usual = "float32" if device.type == "cpu" or settings.kind == "full" else "bfloat16"
    return Place(find(settings.model), device, dtype_named(settings.dtype or usual))


# ---- data -------------------------------------------------------------------------------------


def find_pictures(settings: Settings, place: Place) -> Pictures:
    """Every picture of the data, checked, with its size.

    Raises:
        DataError: with all faults of all pictures.
    """
    records = gather([read_source(entry, settings) for entry in settings.data])
    defaults = model.read_defaults(place.folder)
    width, height = settings.size or defaults.size
    buckets = Buckets(width * height, unit(place), settings.upscale)
    tokenizer = PromptTokenizer.from_folder(place.folder / "tokenizer")
    check(records, buckets=buckets, trigger=settings.trigger or None, tokenizer=tokenizer)
    return split(plan(records, buckets), settings.holdout)


def read_source(entry: str | Mapping[str, Any], settings: Settings) -> Source:
    """``PATH``, ``PATH*REPEATS``, or the same and more as a table."""
    usual = settings.caption or settings.trigger or None
    if not isinstance(entry, str):
        return Source(**{"caption": usual, **entry})
    path, star, repeats = entry.rpartition("*")
    if not star or os.path.exists(entry):
        return Source(entry, caption=usual)
    if not repeats.isdecimal() or len(repeats) > 9 or int(repeats) < 1:
        raise TrainingError(f"data {entry!r}: {repeats!r} must be a whole number of repeats")
    return Source(path, int(repeats), caption=usual)


def unit(place: Place) -> int:
    """Pixels of a patch's side."""
    return 2 * configs.read_vae(place.folder).factor


def split(pictures: Sequence[Picture], share: float) -> Pictures:
    """Some pictures are kept apart, chosen by their content: the same ones in every run, and no
    copy of one of them is learnt from."""
    digests = [hashlib.sha256(p.record.image.read()).hexdigest() for p in pictures]
    different = sorted(set(digests))
    count = min(round(share * len(different)), MOST_APART)
    count = count if len(different) >= FEWEST_TO_SPLIT else 0
    apart = set(different[:count])
    pairs = list(zip(pictures, digests, strict=True))
    return Pictures(
        learnt=[p for p, d in pairs if d not in apart],
        held_out=[p for p, d in pairs if d in apart],
        digest=digest_of(pairs),
    )


def digest_of(pairs: Sequence[tuple[Picture, str]]) -> str:
    """Of pictures with the digests of their bytes: what a resumed training must find again."""
    whole = hashlib.sha256()
    for picture, content in pairs:
        own = picture.record
        mask = hashlib.sha256(own.mask.read()).hexdigest() if own.mask else ""
        told = (content, mask, own.captions, own.repeats, own.weight, picture.size)
        whole.update(json.dumps(told).encode())
    return whole.hexdigest()[:16]


# ---- the cache --------------------------------------------------------------------------------


def open_cache(settings: Settings, place: Place, folder: Path) -> Cache:
    colour: Colour = ImageColor.getrgb(settings.background)[:3]
    stamp = Stamp.of(settings.model, place.folder)
    where = Path(settings.cache) if settings.cache else folder / "cache"
    return Cache(where, stamp, place.dtype, unit=unit(place), background=colour)


def needed_texts(settings: Settings, pictures: Pictures, prompts: Sequence[str]) -> list[str]:
    """Every text that the training or its samples can ask for."""
    records = [p.record for p in (*pictures.learnt, *pictures.held_out)]
    captions = all_texts(records, settings.caption_dropout, settings.trigger or None)
    return list(dict.fromkeys([*captions, *settings.prior_prompts, *prompts, BLANK]))


def fill_cache(
    cache: Cache, place: Place, pictures: Pictures, texts: Sequence[str]
) -> Iterator[tuple[int, int]]:
    """Encode what is missing, with encoders that are loaded only then; yields (done, total)."""
    everything = [*pictures.learnt, *pictures.held_out]
    lacking = [p for p in everything if not cache.has_latent(cache.latent_key(p))]
    if not lacking and all(cache.has_text(cache.text_key(text)) for text in texts):
        return
    lay_large_tensors_apart()
    networks = model.build(place.folder)
    del networks["transformer"]
    for component, network in networks.items():
        model.fill(component, network, place.folder, place.device, place.dtype)
    tokenizer = PromptTokenizer.from_folder(place.folder / "tokenizer")
    vae, text = cast(VAE, networks["vae"]), cast(TextEncoder, networks["text_encoder"])
    yield from fill(cache, Encoders(vae, text, tokenizer, place.device), everything, texts)
    del networks, vae, text
    gc.collect()


# ---- the training -----------------------------------------------------------------------------


def load_transformer(place: Place, quantise: str = "none") -> Transformer:
    """The network; what is quantised becomes so as it is read, one matrix after the other."""
    lay_large_tensors_apart()
    network = cast(Transformer, model.build(place.folder)["transformer"])
    if quantise != "none":
        quantise_blocks(network, quantise)
    model.fill("transformer", network, place.folder, place.device, place.dtype)
    return network


def begin(
    settings: Settings,
    network: Transformer,
    place: Place,
    pictures: Pictures,
    cache: Cache,
    folder: Path,
    identity: Mapping[str, str],
) -> Training:
    """The training of these settings, at its beginning or where it was left.

    ``identity`` says what the data and the model hold, whatever they are called.
    """
    make = LoraSubject if settings.kind == "lora" else FullSubject
    if settings.quantise != "none":
        quantise_blocks(network, settings.quantise)  # if it was not loaded so
    subject = make(network, settings)
    if settings.checkpointing:
        checkpoint_blocks(network)
    shelf, take = Shelf(cache), taken(settings, place)
    stock = Stock(pictures.learnt, shelf, take)
    held_out = Stock(pictures.held_out, shelf, take).fixed(SIGMAS) if pictures.held_out else []
    prior: list[Tensor] = [shelf.text(prompt) for prompt in settings.prior_prompts]
    return Training(subject, stock, held_out, prior, settings, folder, identity)


def some_examples(
    settings: Settings, place: Place, pictures: Pictures, cache: Cache
) -> list[Example]:
    """The first picture at as many levels of the held-out loss as one pack takes, spread evenly."""
    stock = Stock(pictures.learnt[:1], Shelf(cache), taken(settings, place))
    examples = stock.fixed(SIGMAS)[0]
    step = math.ceil(len(examples) / levels_at_once(len(examples[0].clean)))
    return examples[(step - 1) // 2 :: step]


def taken(settings: Settings, place: Place) -> Take:
    return Take(
        draw_sigma=sampler(settings, place),
        dropout=settings.caption_dropout,
        trigger=settings.trigger or None,
        seed=settings.seed,
        unit=unit(place),
    )


def sampler(settings: Settings, place: Place) -> Draw:
    options = {
        "mean": settings.sigma_mean,
        "std": settings.sigma_std,
        "shift": settings.shift,
        "nodes": settings.nodes,
    }
    return sigma_sampler(settings.sigma, options, configs.read_schedule(place.folder))


def largest_pack(
    settings: Settings, place: Place, pictures: Pictures
) -> list[tuple[int, int, int]]:
    """Rows, columns and text tokens of the largest pack that can come, for the memory plan."""
    side, tokenizer = unit(place), PromptTokenizer.from_folder(place.folder / "tokenizer")
    shapes = []
    for picture in pictures.learnt:
        texts = all_texts([picture.record], 0.0, settings.trigger or None)
        longest = max(len(tokenizer.encode(text)) for text in texts)
        width, height = picture.size
        shapes.append((height // side, width // side, longest))
    shapes.sort(key=lambda shape: shape[0] * shape[1] + shape[2], reverse=True)
    return (shapes * settings.batch)[: settings.batch]


def usual_pack(settings: Settings, place: Place) -> list[tuple[int, int, int]]:
    """As ``largest_pack``, where there are no pictures yet."""
    width, height = settings.size or model.read_defaults(place.folder).size
    side = unit(place)
    return [(height // side, width // side, USUAL_TEXT)] * settings.batch


def around(
    settings: Settings,
    place: Place,
    shapes: Shapes,
    pictures: Pictures | None = None,
    *,
    encoded: bool = False,
) -> Around:
    """What the run of such packs holds and does around its steps, for the memory plan."""
    defaults, side = model.read_defaults(place.folder), unit(place)
    text = configs.read_text_encoder(place.folder)
    rows, columns, tokens = shapes[0]
    return Around(
        text_encoder=text,
        vae=configs.read_vae(place.folder),
        largest=(columns * side, rows * side),
        sample=settings.size or defaults.size,
        sample_steps=settings.sample_steps or defaults.steps,
        tokens=tokens,
        data=0 if pictures is None else data_bytes(pictures, shapes[0], text.hidden_size, side),
        encoded=encoded,
        cpu=place.device.type == "cpu",
    )


def data_bytes(pictures: Pictures, longest: tuple[int, int, int], width: int, side: int) -> int:
    """Latents and texts that stay in memory, float32: mean and spread of what is learnt from,
    picture and noise at every level of what is held out."""
    channels = 64  # of a patch
    areas = [p.size[0] * p.size[1] // side**2 for p in pictures.learnt[:KEPT_IN_MEMORY]]
    held_out = sum(p.size[0] * p.size[1] // side**2 for p in pictures.held_out)
    text = min(len(areas), KEPT_IN_MEMORY) * longest[2] * width
    return 4 * (2 * channels * (sum(areas) + len(SIGMAS) * held_out) + text)


def transformer_config(place: Place) -> TransformerConfig:
    return configs.read_transformer(place.folder)


def with_dtype(settings: Settings, place: Place) -> Settings:
    """The settings with the dtype that is computed in, for the plan."""
    return replace(settings, dtype=str(place.dtype).removeprefix("torch."))
