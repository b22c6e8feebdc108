"""Opening an adapter's file, and only if it is safetensors: nothing is ever unpickled."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from danqing.adapters.peft import PEFT_METADATA
from danqing.adapters.refusal import printable
from danqing.errors import AdapterError

# Beginnings of files that hold pickles, which can run code when they are opened.
PICKLES = {b"PK\x03\x04": "a PyTorch zip", b"\x80": "a pickle"}
IN_FOLDER = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
PEFT_CONFIG = "adapter_config.json"
MAX_HEADER = 100 * 1024**2  # the format's own limit


def locate(path: Path) -> Path:
    """The file itself, if ``path`` is a folder as PEFT or diffusers write it."""
    if not path.is_dir():
        return path
    for name in IN_FOLDER:
        if (path / name).is_file():
            return path / name
    raise AdapterError(f"{path} is a folder without {' or '.join(IN_FOLDER)}; name the file")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors, on the CPU, and the metadata. AdapterError for anything but safetensors."""
    path = locate(path)
    try:
        check_header(path)
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            # Copies: the library's tensors would change with the file, or be cut off with it.
            tensors = {n: file.get_tensor(n).clone() for n in file.keys()}  # noqa: SIM118
    except OSError as error:
        reason = error.strerror or str(error)
        raise AdapterError(f"cannot read adapter {path}: {reason}; check the name") from error
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise AdapterError(
            f"adapter {path} is truncated or not a safetensors file ({printable(str(error))}); "
            "fetch it again"
        ) from error
    return tensors, with_peft_config(path, metadata)


def check_header(path: Path) -> None:
    """Refuse a pickle by its first bytes, and a header that names a tensor twice."""
    with path.open("rb") as file:
        start = file.read(8)
        kind = next((kind for mark, kind in PICKLES.items() if start.startswith(mark)), None)
        plausible = len(start) == 8 and int.from_bytes(start, "little") <= MAX_HEADER
        if kind and not plausible:
            raise AdapterError(
                f"adapter {path} is {kind}, which can run code when it is opened; convert it to "
                "safetensors where you trust it"
            )
        if plausible:
            json.loads(file.read(int.from_bytes(start, "little")), object_pairs_hook=once)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Safetensors itself would take the last of two entries of one name, in silence."""
    if len(dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return dict(pairs)


def with_peft_config(path: Path, metadata: dict[str, str]) -> dict[str, str]:
    """PEFT keeps rank and alpha in a file beside the weights: read as if they stood within."""
    beside = peft_settings(path)
    if beside is None:
        return metadata
    try:
        return {**metadata, PEFT_METADATA: beside.read_text("utf-8")}
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"cannot read {beside}: {error}") from error


def peft_settings(path: Path) -> Path | None:
    """PEFT's settings beside its weights, if this file is such weights and they are there."""
    beside = path.with_name(PEFT_CONFIG)
    return beside if path.name == IN_FOLDER[0] and beside.is_file() else None


def serialise(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file, the same ones for the same content.

    The library itself writes the metadata in an order that changes from process to process.
    """
    content = save(tensors, metadata)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[8 + size :]
