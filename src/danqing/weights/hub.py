"""Where a model's folder is: inside the package, on the disk, or on the hub."""

import os
import re
from importlib import resources
from pathlib import Path

from danqing.errors import ModelError

EMBEDDED = ("mini",)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Safetensors and settings only: code and pickles of a repository are never even fetched.
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.jinja"]


def find(model: str) -> Path:
    """The folder of an embedded model, a folder's path, or a hub id that was fetched before."""
    if model in EMBEDDED:
        folder = Path(str(resources.files("danqing") / "assets" / model))
        if not (folder / "model_index.json").is_file():
            raise ModelError(f"the package came without its model {model!r}; install it again")
        return folder
    folder = Path(os.path.expanduser(model))  # leaves an unknown user's ~ as it is
    if folder.is_dir():
        return folder
    if HUB_ID.fullmatch(model) and not model.startswith("."):
        return fetch(model, local_only=True)
    raise ModelError(
        f"model {model!r} is neither {' nor '.join(map(repr, EMBEDDED))}, nor a folder, "
        "nor a hub id such as 'Qwen/Qwen-Image'"
    )


def fetch(model_id: str, *, local_only: bool = False) -> Path:
    """Download a repository's settings and weights into the hub's cache; its folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(model_id, allow_patterns=PATTERNS, local_files_only=local_only)
        )
    except HFValidationError as error:
        raise ModelError(f"{model_id!r} is not a hub id; write owner/name") from error
    except Exception as error:  # the client lets its network library's own errors through
        reason = "it is not in the cache" if local_only else first_line(error)
        remedy = f"fetch it with: danqing model fetch {model_id}"
        raise ModelError(
            f"model {model_id!r}: {reason}; {remedy if local_only else 'check name and network'}"
        ) from error


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
