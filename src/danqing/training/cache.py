"""What the encoders make of pictures and captions, kept on the disk.

A file is found by what it was made of (``latent_key``, ``text_key``), so nothing is ever out of
date, and a picture that lies in two places is encoded once. Latents are kept as the VAE's posterior
in the transformer's (normalised) space, so neither reading nor ``sample`` needs a network.

    cache.json                   which model made it
    latents/ab/ab...safetensors  mean and logvar [16, H/8, W/8] float32
    text/cd/cd...safetensors     features [L, J] in the model's dtype
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from danqing import atomic
from danqing.adapters.safe import serialise
from danqing.errors import DataError, OutputError
from danqing.training.data.faults import named
from danqing.training.data.images import WHITE, Colour
from danqing.training.data.pictures import Picture
from danqing.training.data.records import Place
from danqing.weights.files import write_whole
from danqing.weights.fingerprint import fingerprint

FORMAT = 1  # to be raised when the same picture would give other pixels, or the files change
MARK = "cache.json"
LATENTS, TEXT = "latents", "text"  # the subfolders


def sample(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """A clean latent of the posterior, in the transformer's space; ``noise`` is standard normal."""
    return mean + (0.5 * logvar).exp() * noise


@dataclass(frozen=True)
class Stamp:
    """The model that a cache belongs to: its name, and fingerprints of its encoders."""

    model: str
    vae: str
    text: str
    format: int = FORMAT

    @classmethod
    def of(cls, model: str, folder: Path) -> "Stamp":
        """Of the model in this folder; ``model`` is the name by which errors call it."""
        vae, *text = (fingerprint(folder / p) for p in ("vae", "text_encoder", "tokenizer"))
        return cls(model, vae, "".join(text))


class Cache:
    """A folder of latents and text features.

    Args:
        folder: is made if it is not there.
        stamp: the model.
        dtype: in which the encoders compute.
        unit: pixels of a patch's side.
        background: what transparent pictures lie on.

    Raises:
        DataError: the folder belongs to another model, or is no cache.
        OutputError: it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        stamp: Stamp,
        dtype: torch.dtype,
        *,
        unit: int = 16,
        background: Colour = WHITE,
    ) -> None:
        self.folder = folder
        self.stamp = stamp
        self.dtype = dtype
        self.unit = unit
        self.background = background
        self._digests: dict[Place, str] = {}
        claim(folder, stamp)

    # ---- keys -----------------------------------------------------------------------------

    def latent_key(self, picture: Picture) -> str:
        """SHA-256 of all that the latent depends on. Reads the picture; DataError if it cannot."""
        with named(picture.record.origin):
            image = self._digest(picture.record.image)
        return self._key(
            LATENTS,
            image=image,
            size=picture.size,
            unit=self.unit,
            background=self.background,
            vae=self.stamp.vae,
        )

    def text_key(self, caption: str) -> str:
        """SHA-256 of all that the text features depend on."""
        return self._key(TEXT, caption=caption, text=self.stamp.text)

    def _key(self, kind: str, **parts: Any) -> str:
        whole = {**parts, "kind": kind, "dtype": str(self.dtype), "format": FORMAT}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def _digest(self, place: Place) -> str:
        if place not in self._digests:
            self._digests[place] = hashlib.sha256(place.read()).hexdigest()
        return self._digests[place]

    # ---- reading --------------------------------------------------------------------------

    def latent(self, key: str) -> tuple[Tensor, Tensor]:
        """Mean and logvar [16, H/8, W/8]. DataError where they are missing or damaged."""
        tensors = read(self._path(LATENTS, key), key)
        return tensors["mean"], tensors["logvar"]

    def text(self, key: str) -> Tensor:
        """Text features [L, J]. DataError where they are missing or damaged."""
        return read(self._path(TEXT, key), key)["features"]

    def has_latent(self, key: str) -> bool:
        """Whether it is there and whole; warns of a damaged one."""
        return is_whole(self._path(LATENTS, key), key)

    def has_text(self, key: str) -> bool:
        """Whether it is there and whole; warns of a damaged one."""
        return is_whole(self._path(TEXT, key), key)

    # ---- writing --------------------------------------------------------------------------

    def keep_latent(self, key: str, mean: Tensor, logvar: Tensor) -> None:
        write(self._path(LATENTS, key), key, {"mean": mean, "logvar": logvar})

    def keep_text(self, key: str, features: Tensor) -> None:
        write(self._path(TEXT, key), key, {"features": features})

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / key[:2] / f"{key}.safetensors"


# ---- files ------------------------------------------------------------------------------------


def read(path: Path, key: str) -> dict[str, Tensor]:
    """The tensors of one file, compared with their checksum."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise DataError(f"the cache lacks {path}; fill it again") from error
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged ({error})") from error
    if metadata != {"key": key, "sha256": digest(tensors)}:
        raise DataError(f"{path} is damaged (its checksum differs)")
    return tensors


def is_whole(path: Path, key: str) -> bool:
    if not path.exists():
        return False
    try:
        read(path, key)
    except DataError as error:
        warnings.warn(f"{error}; it is computed anew", stacklevel=4)
        return False
    return True


def write(path: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    """The same bytes whoever writes them, so processes that fill one cache may overwrite."""
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, serialise(own, {"key": key, "sha256": digest(own)}))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, kinds, shapes and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


# ---- whose it is ------------------------------------------------------------------------------


def claim(folder: Path, stamp: Stamp) -> None:
    """Make the folder this model's cache, or see that it is."""
    # First look, then read: another process may be making the same cache.
    occupied = folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir())
    mark = folder / MARK
    if not mark.exists():
        if occupied:
            raise DataError(f"{folder} is not empty and no cache; choose another folder for it")
        make_folder(folder)
        content = json.dumps(asdict(stamp), ensure_ascii=False, indent=2) + "\n"
        try:
            atomic.write(mark, lambda file: file.write(content.encode()), overwrite=False)
        except OutputError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise
    check_stamp(folder, read_stamp(mark), stamp)


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise atomic.unwritable(folder, error) from error


def read_stamp(mark: Path) -> Stamp:
    try:
        return Stamp(**json.loads(mark.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"cannot read {mark} ({error}); delete the cache's folder") from error


def check_stamp(folder: Path, found: Stamp, wanted: Stamp) -> None:
    for part in ("format", "vae", "text"):
        theirs, ours = getattr(found, part), getattr(wanted, part)
        if theirs != ours:
            raise DataError(
                f"the cache {folder} belongs to {found.model}, not to {wanted.model} ({part} "
                f"{theirs}, here {ours}); choose another folder for the cache, or delete this one"
            )
