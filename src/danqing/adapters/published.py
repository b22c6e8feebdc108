"""Adapters that are published on the hub: short names, files, and how to sample with them.

Source: ModelTC/Qwen-Image-Lightning (README and its generating script): flow-match Euler with the
constant shift 3, no guidance.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from danqing.adapters.adapter import Sampling
from danqing.errors import AdapterError
from danqing.weights.fingerprint import ADAPTERS

LIGHTNING = {
    4: Sampling(4, (1.0, 0.9, 0.75, 0.5, 0.0), 1.0),
    8: Sampling(8, (1.0, 21 / 22, 0.9, 5 / 6, 0.75, 9 / 14, 0.5, 0.3, 0.0), 1.0),
}
HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/([\w./-]+\.safetensors)")
_NAMED = re.compile(r"Qwen-Image(-2512)?-Lightning-([48])steps-V[\d.]+(-bf16|-fp32)?")


@dataclass(frozen=True)
class HubFile:
    repository: str
    file: str


SHORT_NAMES = {
    "lightning-4": HubFile(
        "lightx2v/Qwen-Image-Lightning", "Qwen-Image-Lightning-4steps-V2.0-bf16.safetensors"
    ),
    "lightning-8": HubFile(
        "lightx2v/Qwen-Image-Lightning", "Qwen-Image-Lightning-8steps-V2.0.safetensors"
    ),
}


def on_hub(name: str) -> HubFile | None:
    """The hub's file of a short name or of ``owner/repository/file.safetensors``."""
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]
    match = HUB_FILE.fullmatch(name)
    return HubFile(*match.groups()) if match and not name.startswith(".") else None


def known_sampling(path: Path) -> Sampling | None:
    """Of a published file, by its name: these files say nothing of it themselves."""
    match = _NAMED.fullmatch(path.stem)
    return LIGHTNING[int(match[2])] if match else None


def find(name: str, also: Sequence[str] = (), model: Path | None = None) -> Path:
    """One of the model folder's own, a file, a folder, or one that was fetched from the hub;
    ``also`` are names for the error.

    Raises:
        AdapterError: it is nowhere.
    """
    if model and "/" not in name:
        own = model / ADAPTERS / f"{name}.safetensors"
        if os.path.isfile(own):  # false for a name that is too long
            return own
    path = Path(os.path.expanduser(name))  # leaves an unknown user's ~ as it is
    if os.path.exists(path):  # false for a name that is too long
        return path
    if on_hub(name):
        return fetch(name, local_only=True)
    known = ", ".join([*also, *SHORT_NAMES])
    raise AdapterError(f"adapter {name!r} is neither a file nor one of {known}; check the name")


def fetch(name: str, *, local_only: bool = False) -> Path:
    """Download a published adapter into the hub's cache; its path."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    found = on_hub(name)
    if found is None:
        raise AdapterError(
            f"adapter {name!r} is not known; give {', '.join(SHORT_NAMES)} or "
            "owner/repository/file.safetensors"
        )
    try:
        return Path(hf_hub_download(found.repository, found.file, local_files_only=local_only))
    except HFValidationError as error:
        raise AdapterError(f"{found.repository!r} is not a hub id; write owner/name") from error
    except Exception as error:  # the client lets its network library's own errors through
        if local_only:
            raise AdapterError(
                f"adapter {name!r} is not in the cache; fetch it with: danqing adapter fetch {name}"
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise AdapterError(f"adapter {name!r}: {reason}; check name and network") from error
