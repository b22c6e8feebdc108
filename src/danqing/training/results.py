"""Where a training leaves what it makes: the result, and beside it the folder of the run.

    mine.safetensors        the averaged adapter, written at every save
    mine-best.safetensors   the one with the best held-out loss, if that is another
    mine.run/               state, settings, log, samples, cache and report

Of all weights, ``mine/`` is a model folder, written once at the end.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from danqing import atomic
from danqing.adapters import write as writing
from danqing.adapters.adapter import Adapter
from danqing.errors import OutputError, TrainingError
from danqing.models.transformer import Transformer
from danqing.training import checkpoint
from danqing.training.loop import Training
from danqing.training.memory import plain_blocks
from danqing.training.settings import Outcome, Settings, path_of, toml
from danqing.training.subject import LoraSubject
from danqing.weights import export
from danqing.weights.files import TensorFiles, dtype_named
from danqing.weights.model import STEMS, names_of

LOCK, SETTINGS = "lock", "settings.toml"
# What says that an adapter, or a model folder, was made by a training.
METADATA, MARK = "danqing_training", "danqing_training.json"


def run_folder(settings: Outcome) -> Path:
    """``mine.run`` for ``mine.safetensors``."""
    out = Path(settings.out)
    name = out.stem if settings.kind == "lora" else out.name
    return out.with_name(f"{name}.run")


def best_path(settings: Outcome) -> Path:
    out = Path(settings.out)
    lora = settings.kind == "lora"
    return out.with_name(f"{out.stem}-best{out.suffix}" if lora else f"{out.name}-best")


def check(settings: Outcome) -> None:
    """Refuse a place whose file was not made by this training, before any work."""
    out = Path(settings.out)
    if not out.name:
        raise TrainingError(f"--out {settings.out} has no name of its own; give one")
    folder = run_folder(settings)
    if settings.kind == "lora" and out.suffix != ".safetensors":
        other = out.with_suffix(".safetensors")
        raise TrainingError(f"adapters are written as safetensors; give --out {other}")
    if settings.kind == "full" and out.suffix == ".safetensors":
        raise TrainingError(f"all weights are written as a folder; give --out {out.stem}")
    for entry in settings.data:
        data = Path(path_of(entry))
        if os.path.isdir(data) and folder.resolve().is_relative_to(data.resolve()):
            raise TrainingError(
                f"{folder} would lie among the pictures in {data}; give --out another folder"
            )
    for path in (out, best_path(settings)):
        taken = os.path.lexists(path) and not is_empty(path)
        if taken and not (checkpoint.exists(folder) and is_ours(path)):
            raise OutputError(
                f"{path} exists and was not made by a training in {folder}; give another --out"
            )


def is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def is_ours(path: Path) -> bool:
    """Whether it bears the mark of a training."""
    if path.is_dir():
        return (path / MARK).is_file()
    try:
        with safe_open(path, framework="pt") as file:
            return METADATA in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


@contextmanager
def owned(settings: Outcome) -> Iterator[Path]:
    """The folder of the run, for one process: two would overwrite each other's state."""
    folder = run_folder(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise atomic.unwritable(folder, error) from error
    with lock:
        if not locked(lock.fileno()):
            raise TrainingError(f"another training is running in {folder}; wait for it or stop it")
        yield folder


def locked(descriptor: int) -> bool:
    """Whether the file is ours now; the system frees it when the process ends, however."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: whoever starts two must know
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_settings(settings: Settings, folder: Path) -> Path:
    """As a file that ``--config`` takes."""
    return write_text(folder, toml(settings, folder))


def write_text(folder: Path, settings: str) -> Path:
    path = folder / SETTINGS
    atomic.write(path, lambda file: file.write(settings.encode()))
    return path


# ---- adapters ---------------------------------------------------------------------------------


def write_adapters(
    training: Training, settings: Settings, base: Mapping[str, str]
) -> tuple[Path, ...]:
    """The averaged adapter as it is now, and the best one, if that is another; none of a full
    training."""
    subject, best = training.subject, training.best
    if not isinstance(subject, LoraSubject):
        return ()
    out, other = Path(settings.out), best_path(settings)
    with training.averaged():
        write_adapter(subject.adapter(), out, settings, base, training.step)
    if not best.weights or best.step in (0, training.step):
        other.unlink(missing_ok=True)  # of an earlier evaluation
        return (out,)
    with training.holding(best.weights):
        write_adapter(subject.adapter(), other, settings, base, best.step)
    return out, other


def write_adapter(
    adapter: Adapter, path: Path, settings: Outcome, base: Mapping[str, str], step: int
) -> None:
    metadata = {METADATA: told(settings, step)}
    kept = writing.cast(adapter, dtype_named(settings.save_dtype))
    noted = replace(kept, base=base, metadata=metadata)
    writing.write(noted, path, settings.naming, overwrite=True)


def told(settings: Outcome, step: int) -> str:
    """What the result says of its making."""
    facts = {"settings": settings.learnt_from(), "step": step}
    return json.dumps(facts, sort_keys=True, ensure_ascii=False)


# ---- all weights ------------------------------------------------------------------------------


def write_models(training: Training, settings: Settings, source: Path) -> tuple[Path, ...]:
    """The averaged weights as a model folder, and the best ones, if those are others."""
    out, best = Path(settings.out), training.best
    with training.averaged():
        write_model(training.subject.network, out, source, told(settings, training.step))
    if not best.weights or best.step in (0, training.step):
        return (out,)
    other = best_path(settings)
    with training.holding(best.weights):
        write_model(training.subject.network, other, source, told(settings, best.step))
    return out, other


def write_model(network: Transformer, target: Path, source: Path, mark: str) -> None:
    """A model folder like ``source`` with this transformer, in the dtype of its files.

    The folder of before stays until the new one is whole.
    """
    stem = STEMS["transformer"]
    with TensorFiles(source / "transformer", stem) as files:
        names = names_of("transformer", files)
        dtype = files.read(next(iter(files.home))).dtype
        extra = {n: files.read(n).to(dtype) for n in files.home if names.skipped(n)}
    plain_blocks(network)
    new, old = (target.with_name(f".{target.name}.{name}") for name in ("new", "old"))
    for rest in (new, old):  # of a run that was killed here
        shutil.rmtree(rest, ignore_errors=True)
    with export.new_folder(new) as draft:
        export.copy_rest(source, draft)
        (draft / MARK).unlink(missing_ok=True)  # of a source that was trained itself
        export.save_component("transformer", network, draft, names, dtype, extra)
        (draft / MARK).write_text(mark, "utf-8")
    try:
        if target.exists():  # ours: `check` saw to it
            target.rename(old)
        new.rename(target)
    except OSError as error:
        raise atomic.unwritable(target, error) from error
    shutil.rmtree(old, ignore_errors=True)
