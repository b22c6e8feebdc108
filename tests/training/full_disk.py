"""A training on a disk that is too small, then larger: ``python -m tests.training.full_disk``.

To be run in a mount namespace of its own. Prints, as JSON, what the first training said when the
disk was full, the last step that it had announced as saved, and where the second one went on.
"""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from danqing.errors import OutputError
from danqing.training.loop import Saved
from danqing.training.run import Resumed, train
from tests.training.whole import CPU, drafts, settings, told


def size(folder: Path, number: int, *options: str) -> None:
    """Make the folder a disk of so many bytes."""
    given = ",".join((f"size={number}", *options))
    subprocess.run(["mount", "-t", "tmpfs", "-o", given, "tmpfs", str(folder)], check=True)


def main(folder: Path, model: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("error")
    disk = folder / "disk"
    size(disk, 1 << 24)
    own = settings(folder, model, out=str(disk / "mine.safetensors"))
    found: dict[str, Any] = {}
    try:
        for event in train(own, CPU):
            if isinstance(event, Saved):
                found["saved"] = event.step
            if event == Saved(2):  # as much again would not fit
                size(disk, shutil.disk_usage(disk).used + 20_000, "remount")
    except OutputError as error:
        found["message"] = str(error)
    found["drafts"] = list(map(str, drafts(disk)))
    size(disk, 1 << 24, "remount")
    found["resumed"] = [e.step for e in told(own) if isinstance(e, Resumed)]
    shutil.copy(own.out, folder / "mine.safetensors")
    print(json.dumps(found))  # noqa: T201 (the test reads it)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
