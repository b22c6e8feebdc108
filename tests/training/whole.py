"""A whole training of the tiny model on four small pictures, in half a second."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from danqing.errors import DanqingError
from danqing.training.loop import Stepped
from danqing.training.run import Told, train
from danqing.training.settings import Settings, read
from tests.training.pictures import photo, save, write

CPU = torch.device("cpu")
VALUES: dict[str, Any] = {
    "size": [32, 32],
    "rank": 2,
    "alpha": 2.0,
    "targets": ["attn.to_q"],
    "steps": 4,
    "rate": 1e-2,
    "warm_up": 0,
    "caption_dropout": 0.0,
    "save_every": 2,
    "evaluate_every": 0,
    "sample_every": 0,
}


def skip_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory plan takes seconds, and has tests of its own."""
    monkeypatch.setattr("danqing.training.run.plan", lambda *_: SimpleNamespace(peak=0))


def photos(folder: Path, count: int = 4) -> Path:
    for n in range(count):
        save(folder / f"{n}.png", photo((32, 32), n))
        write(folder / f"{n}.txt", f"a thing {n}")
    return folder


def settings(folder: Path, model: Path, **values: Any) -> Settings:
    """Of a training on ``folder/photos``, with its result in the folder."""
    places = {"data": [str(folder / "photos")], "out": str(folder / "mine.safetensors")}
    return read(None, {**VALUES, **places, "model": str(model), **values})


def changed(own: Settings, **values: Any) -> Settings:
    """As if the same command were given with other options."""
    return read(None, {**own.plain(), **values})


def told(own: Settings) -> list[Told]:
    return list(train(own, CPU))


def of(events: list[Told], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def killed_after(own: Settings, step: int) -> None:
    """Begin the training and drop it when this step is made."""
    running = train(own, CPU)
    for event in running:
        if isinstance(event, Stepped) and event.step == step:
            break
    running.close()  # type: ignore[attr-defined]


def stopped(own: Settings, kind: type[DanqingError]) -> tuple[list[Told], str]:
    """What a training tells before it stops with an error of this class, and what that says."""
    seen: list[Told] = []
    with pytest.raises(kind) as caught:
        seen.extend(train(own, CPU))
    return seen, str(caught.value)


def refusal(own: Settings, kind: type[DanqingError]) -> str:
    """The error that comes before any step, on one line."""
    seen, message = stopped(own, kind)
    assert not [event for event in seen if hasattr(event, "loss")]
    assert "\n" not in message
    return message


def files(folder: Path) -> dict[str, bytes]:
    """Everything under the folder, hidden files included."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def drafts(folder: Path) -> list[Path]:
    """Files that were being written when something went wrong."""
    return sorted(folder.rglob(".danqing-*"))
