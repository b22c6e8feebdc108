"""Pictures by mini with and without adapters, and pictures through its VAE.

What was painted is kept under ``painted``, named by everything that it depends on.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch

import danqing
from danqing.models.vae import VAE
from danqing.weights import configs, loader, model
from danqing.weights.hub import find
from recipes.adapters.config import Place
from recipes.adapters.detect import as_bytes, as_images
from recipes.mini.files import write_atomic
from recipes.mini.looks import SIZE
from recipes.mini.score import GUIDANCE, STEPS

Adapters = Mapping[str, float]  # files and strengths
AT_ONCE = 32


@lru_cache(1)
def pipeline() -> danqing.Pipeline:
    return danqing.load("mini")


def paint(
    place: Place,
    texts: Sequence[str],
    seeds: Sequence[int],
    adapters: Adapters | None = None,
    steps: int | None = STEPS,
    guidance: float | None = GUIDANCE,
) -> np.ndarray:
    """uint8 [n, H, W, 3]: each text with the seed in its place; with neither steps nor guidance
    as the adapters were made for."""
    model = pipeline().model.fingerprint
    used = {digest(Path(name)): strength for name, strength in (adapters or {}).items()}
    key = json.dumps(
        [list(texts), list(seeds), steps, guidance, SIZE, model, used],
        ensure_ascii=False,
        sort_keys=True,
    )
    path = place.runs / "painted" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
    if path.exists():
        return cast(np.ndarray, np.load(path))
    requests = [
        danqing.Request(
            text, seed=seed, steps=steps, guidance=guidance, size=SIZE, adapters=adapters or {}
        )
        for text, seed in zip(texts, seeds, strict=True)
    ]
    images = np.stack([np.asarray(result.image) for result in pipeline().generate(requests)])
    buffer = io.BytesIO()
    np.save(buffer, images)
    write_atomic(path, buffer.getvalue())
    return images


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@torch.inference_mode()
def decoded(images: np.ndarray) -> np.ndarray:
    """The pictures after mini's VAE: as soft as anything that mini can paint."""
    vae = open_vae()
    parts = torch.split(as_images(images), AT_ONCE)
    return np.concatenate([as_bytes(vae.decode(vae.encode(part)[0]).float()) for part in parts])


@lru_cache(1)
def open_vae() -> VAE:
    folder = find("mini")
    vae = cast(VAE, loader.build(lambda: VAE(configs.read_vae(folder))))
    model.fill("vae", vae, folder, torch.device("cpu"), torch.float32)
    return vae
