"""Run a small training in a process of its own, to be killed: ``python -m tests.training.killed``.

Prints each step as it is made, so that the killer knows where it is.
"""

import json
import sys
from pathlib import Path

import torch

from danqing.adapters.write import write
from danqing.training.loop import Stepped
from danqing.training.subject import LoraSubject
from tests.training import small


def main(folder: Path, values: str, dtype: str) -> None:
    torch.set_num_threads(1)
    own = small.settings(**json.loads(values))
    run = small.training(folder, own, getattr(torch, dtype))
    with (folder / "losses.txt").open("a") as log:
        for event in run.run():
            if isinstance(event, Stepped):
                log.write(f"{event.step} {event.loss!r} {event.norm!r}\n")
                log.flush()
                print(event.step, flush=True)  # noqa: T201 (the killer listens)
    assert isinstance(run.subject, LoraSubject)
    with run.averaged():
        write(run.subject.adapter(), folder / "mine.safetensors", "diffusers")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
