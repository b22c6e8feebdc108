"""Filling a cache: text features and latents, by the networks that inference uses, bit for bit.

Afterwards the encoders are not needed any more.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from danqing.errors import RequestError, TrainingError
from danqing.models.text_encoder import Prefix, TextEncoder
from danqing.models.tiling import encode_tiled
from danqing.models.tokenizer import PromptTokenizer
from danqing.models.vae import VAE
from danqing.training.cache import Cache
from danqing.training.data.faults import DataFaults
from danqing.training.data.pictures import Picture

TILE_ABOVE = 2_000_000  # pixels, as the engine decodes
MAX_TEXT_TOKENS = 4096  # of a pack of captions, as the engine packs prompts
Tokens = Mapping[str, list[int]]  # by caption


@dataclass(frozen=True)
class Encoders:
    """What makes features and latents; the networks compute in the cache's dtype."""

    vae: VAE
    text_encoder: TextEncoder
    tokenizer: PromptTokenizer
    device: torch.device


def fill(
    cache: Cache,
    encoders: Encoders,
    pictures: Sequence[Picture],
    captions: Iterable[str],
    *,
    together: bool = False,
) -> Iterator[tuple[int, int]]:
    """Compute what the cache lacks; yields (done, total) captions and pictures.

    Args:
        together: whether captions ride together in packs; ask for it where that changes no bit.

    Raises:
        DataError: a caption is too long, or a picture cannot be read.
        TrainingError: what was computed is not finite.
    """
    texts = list(dict.fromkeys(captions))
    done, total = 0, len(texts) + len(pictures)
    yield done, total
    of_texts = _fill_texts(cache, encoders, texts, together)
    for count in chain(of_texts, _fill_latents(cache, encoders, pictures)):
        done += count
        yield done, total


def _fill_texts(
    cache: Cache, encoders: Encoders, texts: Sequence[str], together: bool
) -> Iterator[int]:
    """Yields how many captions more are there."""
    missing = [text for text in texts if not cache.has_text(cache.text_key(text))]
    tokens = tokenise(encoders.tokenizer, missing)
    yield len(texts) - len(missing)
    prefix = text_prefix(encoders) if missing else None
    for pack in packs(tokens, together):
        for text, features in encode_texts(encoders, pack, prefix, cache.dtype).items():
            check_finite(features, f"caption {text[:40]!r}")
            cache.keep_text(cache.text_key(text), features)
        yield len(pack)


def _fill_latents(cache: Cache, encoders: Encoders, pictures: Sequence[Picture]) -> Iterator[int]:
    for picture in pictures:
        key = cache.latent_key(picture)
        if not cache.has_latent(key):
            image = picture.image(cache.background)
            mean, logvar = encode_image(encoders, image, cache.dtype)
            check_finite(mean + logvar, picture.record.origin)
            cache.keep_latent(key, mean, logvar)
        yield 1


# ---- text -------------------------------------------------------------------------------------


def tokenise(tokenizer: PromptTokenizer, texts: Sequence[str]) -> Tokens:
    """Ids of each text, the shortest first; DataFaults naming all that are too long."""
    ids, faults = {}, []
    for text in texts:
        try:
            ids[text] = tokenizer.encode(text)
        except RequestError as error:
            faults.append(str(error).replace("prompt", "caption", 1))
    if faults:
        raise DataFaults(faults)
    return dict(sorted(ids.items(), key=lambda item: len(item[1])))  # equal lengths attend at once


def packs(tokens: Tokens, together: bool) -> Iterator[Tokens]:
    """Groups of captions that are encoded at once, in the order given."""
    pack: dict[str, list[int]] = {}
    filled = 0
    for text, ids in tokens.items():
        if pack and not (together and filled + len(ids) <= MAX_TEXT_TOKENS):
            yield pack
            pack, filled = {}, 0
        pack[text] = ids
        filled += len(ids)
    if pack:
        yield pack


@torch.inference_mode()
def text_prefix(encoders: Encoders) -> Prefix:
    ids = torch.tensor(encoders.tokenizer.prefix, device=encoders.device)
    return encoders.text_encoder.prefix(ids)


@torch.inference_mode()
def encode_texts(
    encoders: Encoders, tokens: Tokens, prefix: Prefix | None, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Text features [L, J] of each caption."""
    lengths = [len(ids) for ids in tokens.values()]
    ids = torch.tensor([i for part in tokens.values() for i in part], device=encoders.device)
    features = encoders.text_encoder(ids, lengths, prefix).to(dtype)
    return dict(zip(tokens, features.split(lengths), strict=True))


# ---- pictures ---------------------------------------------------------------------------------


@torch.inference_mode()
def encode_image(
    encoders: Encoders, image: Image.Image, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Mean and logvar [16, H/8, W/8] float32 of the posterior, in the transformer's space."""
    vae = encoders.vae
    pixels = to_tensor(image)[None].to(encoders.device, dtype)
    large = image.width * image.height > TILE_ABOVE
    mean, logvar = encode_tiled(vae, pixels) if large else vae.encode(pixels)
    std = torch.tensor(vae.config.latents_std, device=encoders.device).view(-1, 1, 1)
    return vae.normalise(mean)[0], (logvar.float() - 2 * std.log())[0]


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as [3, H, W] float32 in [-1, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(127.5).sub(1.0)


def check_finite(tensor: Tensor, origin: str) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise TrainingError(f"{origin} is not finite once encoded; use bfloat16 or float32")
