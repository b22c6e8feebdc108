"""Writing a model folder in the diffusers layout, which diffusers itself opens."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from danqing import atomic
from danqing.errors import OutputError
from danqing.models.vae import VAE, Downsample, Upsample
from danqing.weights import loader, vae_fold
from danqing.weights.files import TensorFiles, dtype_named, read_json, write_json
from danqing.weights.fingerprint import ADAPTERS
from danqing.weights.hub import find
from danqing.weights.model import STEMS, build, check_parts, fill, names_of
from danqing.weights.names import NAMES, Names


def export(model: str, folder: Path, dtype: str | None = None) -> None:
    """Write a copy of a model, by danqing's own reading of it.

    Args:
        model: a name that ``danqing.load`` takes.
        folder: where to; must not exist, or be empty.
        dtype: of the weights; the files' own by default.
    """
    source = find(model)
    check_parts(source)
    with new_folder(folder) as draft:
        write(source, draft, dtype)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when it is whole; nothing stays of a failure."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is not an empty folder; choose another")
    folder = folder.absolute()  # "." has no name
    draft = folder.with_name(f".{folder.name}.part")
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        yield draft
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)
    except OSError as error:
        raise atomic.unwritable(folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):  # one that holds something refuses, and stays
            for parent in made:
                parent.rmdir()


def write(source: Path, folder: Path, dtype: str | None) -> None:
    for component, network in build(source).items():
        with TensorFiles(source / component, STEMS[component]) as files:
            names = names_of(component, files)
            kept = dtype_named(dtype) if dtype else files.read(next(iter(files.home))).dtype
            extra = {n: files.read(n).to(kept) for n in files.home if names.skipped(n)}
        fill(component, network, source, torch.device("cpu"), kept)
        save_component(component, network, folder, names, kept, extra)
        network.to("meta")
    copy_settings(source, folder)
    note_dtype(folder / "text_encoder" / "config.json", dtype)


def save_component(
    component: str,
    network: nn.Module,
    folder: Path,
    names: Names | None = None,
    dtype: torch.dtype = torch.bfloat16,
    extra: dict[str, Tensor] | None = None,
    flat: bool = False,
) -> None:
    """One network's weights under the published names and, unless ``flat``, in their shapes."""
    fold: dict[str, Any] = {}
    extra = dict(extra or {})
    if component == "vae" and flat:
        fold = {"unfold": vae_fold.flat}
    elif component == "vae":
        fold = {"unfold": vae_fold.unfold}
        extra = dict(time_convolutions(cast(VAE, network), dtype)) | extra
    chosen = names or NAMES[component]
    loader.save(
        network, folder / component, STEMS[component], chosen, dtype=dtype, extra=extra, **fold
    )


def time_convolutions(vae: VAE, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The convolutions over time that the published VAE has: zeros, a single frame runs none."""
    flags = vae.config.temperal_downsample
    resamplers = [(n, m) for n, m in vae.named_modules() if isinstance(m, Downsample | Upsample)]
    downs = [(n, m.width) for n, m in resamplers if isinstance(m, Downsample)]
    ups = [(n, 2 * m.width, m.width) for n, m in resamplers if isinstance(m, Upsample)]
    shapes = [(n, w, w) for n, w in downs] + ups
    for (name, out, width), over_time in zip(shapes, (*flags, *flags[::-1]), strict=True):
        if over_time:
            yield f"{name}.time_conv.weight", torch.zeros(out, width, 3, 1, 1, dtype=dtype)
            yield f"{name}.time_conv.bias", torch.zeros(out, dtype=dtype)


def note_dtype(path: Path, dtype: str | None) -> None:
    """transformers keeps the weights' dtype among the settings, under one of two names."""
    settings = read_json(path)
    known = [key for key in ("dtype", "torch_dtype") if key in settings]
    if dtype and known:
        write_json(path, settings | dict.fromkeys(known, dtype))


def copy_rest(source: Path, folder: Path) -> None:
    """Everything but the transformer's weights."""

    def weights(where: str, names: list[str]) -> set[str]:
        inside = Path(where) == source / "transformer"
        return {n for n in names if inside and n.endswith((".safetensors", ".index.json"))}

    shutil.copytree(source, folder, ignore=weights, dirs_exist_ok=True)


def copy_settings(source: Path, folder: Path) -> None:
    """Everything of a model folder that is not weights."""
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        settings = path.suffix in (".json", ".txt", ".jinja", ".md")
        if path.is_file() and settings and not path.name.endswith(".index.json"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    if (source / ADAPTERS).is_dir():  # the settings may name one of them
        shutil.copytree(source / ADAPTERS, folder / ADAPTERS, dirs_exist_ok=True)
