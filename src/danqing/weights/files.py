"""Reading and writing safetensors: one file, or shards with an index. Nothing is ever unpickled."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from danqing import atomic
from danqing.errors import ModelError, WeightsError

SHARD_BYTES = 5 * 1024**3
READ_AT_ONCE = 256 * 1024**2


class TensorFiles:
    """The tensors of a component's folder, opened lazily; a context manager."""

    def __init__(self, folder: Path, stem: str) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._open: dict[Path, Any] = {}
        self._read = 0
        self.home = dict(locate(folder, stem, self._handle))

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def shape(self, name: str) -> tuple[int, ...]:
        path = self.home[name]
        try:
            return tuple(self._handle(path).get_slice(name).get_shape())
        except SafetensorError as error:
            message = f"{path} has no {name}, against the index; fetch the folder again"
            raise WeightsError(message) from error

    def dtype(self, name: str) -> torch.dtype:
        """Without reading the tensor's values."""
        return self._handle(self.home[name]).get_slice(name)[:0].dtype

    def read(self, name: str) -> Tensor:
        path = self.home[name]
        try:
            tensor = self._handle(path).get_tensor(name)
        except SafetensorError as error:
            message = f"{path}: cannot read {name} ({error}); fetch the file again"
            raise WeightsError(message) from error
        self._read += tensor.nbytes
        if self._read > READ_AT_ONCE:
            self._close()
        return tensor

    def _close(self) -> None:
        """What was read of a mapped file counts as this process's memory until then."""
        self._stack.close()
        self._open.clear()
        self._read = 0

    def _handle(self, path: Path) -> Any:
        if path not in self._open:
            try:
                handle = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise WeightsError(
                    f"{path} is truncated or not a safetensors file ({error}); fetch it again"
                ) from error
            self._open[path] = self._stack.enter_context(handle)
        return self._open[path]


def locate(folder: Path, stem: str, opened: Callable[[Path], Any]) -> Iterator[tuple[str, Path]]:
    """Every tensor's name and file, from the index where there is one."""
    index = folder / f"{stem}.safetensors.index.json"
    single = folder / f"{stem}.safetensors"
    if index.is_file():
        for name, file in weight_map(index).items():
            # A file name with a path in it could point anywhere.
            path = folder / Path(file).name
            if not path.is_file():
                raise WeightsError(f"{index.name} names {file}, which is not in {folder}; fetch it")
            yield name, path
    elif single.is_file():
        for name in opened(single).keys():  # noqa: SIM118 (not a dict)
            yield name, single
    else:
        raise ModelError(f"{folder} has no {single.name} and no {index.name}; fetch it again")


def weight_map(index: Path) -> dict[str, str]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise ModelError(f"{index} has no weight_map of names to files; fetch it again")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ModelError where it is missing or broken."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing; this is not a whole model folder") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds {type(value).__name__}, expected a JSON object")
    return value


def write_tensors(folder: Path, stem: str, tensors: Iterator[tuple[str, Tensor]]) -> None:
    """Write tensors as they come, in shards of at most ``SHARD_BYTES``, with an index if needed."""
    shard: dict[str, Tensor] = {}
    homes: dict[str, int] = {}
    filled = total = count = 0
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if shard and filled + size > SHARD_BYTES:
            _write_draft(folder, count, shard)
            shard, filled, count = {}, 0, count + 1
        shard[name] = tensor.contiguous()
        homes[name] = count
        filled, total = filled + size, total + size
    _write_draft(folder, count, shard)
    _name_shards(folder, stem, count + 1, homes, total)


def _write_draft(folder: Path, number: int, tensors: dict[str, Tensor]) -> None:
    content = serialise(tensors, {"format": "pt"})
    write_whole(folder / _draft(number), content)


def _draft(number: int) -> str:
    return f"part-{number:05d}.safetensors"


def _name_shards(folder: Path, stem: str, count: int, homes: dict[str, int], total: int) -> None:
    if count == 1:
        (folder / _draft(0)).replace(folder / f"{stem}.safetensors")
        return
    names = [f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for i, name in enumerate(names):
        (folder / _draft(i)).replace(folder / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: names[i] for name, i in homes.items()},
    }
    write_json(folder / f"{stem}.safetensors.index.json", index)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    write_whole(path, text.encode())


def write_whole(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise atomic.unwritable(path.parent, error) from error
    atomic.write(path, lambda file: file.write(content))


def dtype_named(name: str) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ModelError(f"dtype {name!r} is unknown; choose {', '.join(known)}")
    return known[name]
