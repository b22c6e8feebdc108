"""Nothing is lost in a save: a full disk, damage, a signal; and what is promised of the state."""

import builtins
import errno
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from danqing.errors import DanqingError, OutputError, TrainingError
from danqing.training import checkpoint
from danqing.training.loop import Saved, Stepped
from danqing.training.run import Finished, Resumed, Told, train
from danqing.training.settings import Settings
from tests.training import small
from tests.training.whole import (
    CPU,
    changed,
    drafts,
    files,
    killed_after,
    of,
    photos,
    refusal,
    settings,
    skip_simulation,
    stopped,
    told,
)


@pytest.fixture
def own(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    skip_simulation(monkeypatch)
    photos(tmp_path / "photos")
    return settings(tmp_path, tiny_model)


@pytest.fixture
def straight(own: Settings, tmp_path: Path) -> bytes:
    """The result of the training if nothing goes wrong."""
    undisturbed = changed(own, out=str(tmp_path / "straight.safetensors"))
    told(undisturbed)
    return Path(undisturbed.out).read_bytes()


# ---- a full disk ------------------------------------------------------------------------------


class Disk:
    """Takes so many bytes more, and of a longer write what fits, as a disk does."""

    def __init__(self, room: float = float("inf")) -> None:
        self.room, self.taken = room, 0

    def open(self, path: Path, mode: str) -> BinaryIO:
        file = builtins.open(path, mode)  # noqa: SIM115 (the caller closes it)
        write = file.write

        def fit(content: bytes) -> int:
            fits = int(min(len(content), self.room - self.taken))
            self.taken += write(content[:fits])
            if fits < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return fits

        return Watched(file, fit)  # type: ignore[return-value]


class Watched:
    def __init__(self, file: Any, write: Callable[[bytes], int]) -> None:
        self._file, self.write = file, write

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def on(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danqing.atomic.open", disk.open, raising=False)


def test_a_disk_that_is_full_at_random_points(
    own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, rng = Disk(), random.Random(0)
    on(whole, monkeypatch)
    undisturbed = changed(own, out=str(tmp_path / "straight.safetensors"))
    told(undisturbed)
    for n, share in enumerate((0.05, 0.5, 0.99)):
        ours = changed(own, out=str(tmp_path / f"{n}.safetensors"))
        on(Disk(int(whole.taken * (share - 0.02 * rng.random()))), monkeypatch)
        seen, message = stopped(ours, OutputError)
        assert message.startswith(f"cannot write {tmp_path / str(n)}")
        assert message.endswith(
            ": No space left on device; free some space or choose another folder"
        )
        assert "\n" not in message
        assert not drafts(tmp_path)
        monkeypatch.undo()
        skip_simulation(monkeypatch)
        saved = [event.step for event in of(seen, Saved)][-1:]
        assert [event.step for event in of(told(ours), Resumed)] == saved
        assert Path(ours.out).read_bytes() == Path(undisturbed.out).read_bytes()


def test_a_real_disk_that_is_full(own: Settings, straight: bytes, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        mount = ["mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "disk")]
        subprocess.run([*alone, *mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets nobody mount a small disk")
    command = [sys.executable, "-m", "tests.training.full_disk", str(tmp_path), own.model]
    command.append(str(torch.get_num_threads()))
    done = subprocess.run([*alone, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "No space left on device; free some space" in found["message"]
    assert found["saved"] == 2
    assert found["resumed"] == [2]
    assert found["drafts"] == []
    assert (tmp_path / "mine.safetensors").read_bytes() == straight


# ---- damage -----------------------------------------------------------------------------------


def short() -> Settings:
    """Saved at the steps 3 and 6."""
    return small.settings(steps=6, batch=1, evaluate_every=0)


def test_random_damage_is_always_known(tmp_path: Path) -> None:
    list(small.training(tmp_path, short()).run())
    state, rng = tmp_path / checkpoint.STATE, random.Random(0)
    content = state.read_bytes()
    for _ in range(20):
        damaged = bytearray(content[: rng.choice([len(content), rng.randrange(len(content))])])
        if len(damaged) == len(content):
            damaged[rng.randrange(rng.choice([64, len(content)]))] ^= 1 << rng.randrange(8)
        state.write_bytes(damaged)
        found = checkpoint.load(tmp_path)
        assert found is not None
        assert found["step"] == 3


def test_the_last_good_state_outlives_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damaged state must not take the good one's place before there is a new one."""
    own = short()
    straight = small.losses(list(small.training(tmp_path / "straight", own).run()))
    folder = tmp_path / "broken"
    list(small.training(folder, own).run())
    state = folder / checkpoint.STATE
    state.write_bytes(state.read_bytes()[:-1])
    again = small.training(folder, own)
    assert again.step == 3
    on(Disk(room=100), monkeypatch)
    with pytest.raises(OutputError):
        list(again.run())
    monkeypatch.undo()
    last = small.training(folder, own)
    assert last.step == 3
    assert small.losses(list(last.run())) == straight[3:]


def spoiled(folder: Path) -> None:
    for name in (checkpoint.STATE, checkpoint.BEFORE):
        if (folder / name).exists():
            (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def test_damaged_states_are_not_passed_over(own: Settings, tmp_path: Path) -> None:
    """To begin anew in silence would replace the result of all the steps before."""
    killed_after(own, 3)
    spoiled(tmp_path / "mine.run")
    before = Path(own.out).read_bytes()
    assert checkpoint.STATE in refusal(own, TrainingError)
    assert Path(own.out).read_bytes() == before


@pytest.mark.parametrize("name", [checkpoint.STATE, checkpoint.BEFORE])
def test_a_folder_in_the_place_of_a_state(own: Settings, tmp_path: Path, name: str) -> None:
    killed_after(own, 3)
    path = tmp_path / "mine.run" / name
    path.unlink(missing_ok=True)
    path.mkdir()
    message = stopped(own, DanqingError)[1]
    assert name in message
    assert "\n" not in message


def packed(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"nonsense", packed([1]), packed({"step": 2}), packed({"step": 2, "settings": "{}"})],
)
def test_a_state_of_another_making(own: Settings, tmp_path: Path, content: bytes) -> None:
    killed_after(own, 3)
    state = tmp_path / "mine.run" / checkpoint.STATE
    state.write_bytes(content + hashlib.sha256(content).digest())
    assert str(tmp_path / "mine.run") in refusal(own, TrainingError)


def test_a_state_of_another_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device may be changed, so a state from a GPU must open where there is none."""
    own = short()
    run = small.training(tmp_path, own)
    monkeypatch.setattr("torch.serialization.location_tag", lambda _: "cuda:0")
    list(run.run())
    monkeypatch.undo()
    again = small.training(tmp_path, own)
    assert again.step == 6
    ours = small.weights(again)
    assert all(torch.equal(ours[name], tensor) for name, tensor in small.weights(run).items())


# ---- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_is_asked_to_end_saves_first(
    own: Settings, straight: bytes, number: signal.Signals
) -> None:
    own = changed(own, save_every=0)
    before = signal.getsignal(number)
    seen: list[Told] = []
    for event in train(own, CPU):
        seen.append(event)
        if isinstance(event, Stepped) and event.step == 3:
            signal.raise_signal(number)
    assert of(seen, Saved) == [Saved(3)]
    assert of(seen, Finished)[0].step == 3
    assert Path(own.out) in of(seen, Finished)[0].paths
    assert signal.getsignal(number) == before
    assert of(told(own), Resumed) == [Resumed(3)]
    assert Path(own.out).read_bytes() == straight


def test_a_signal_in_the_middle_of_a_save(
    own: Settings, straight: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync
    seen: list[Told] = []

    def interrupted(descriptor: int) -> None:
        if of(seen, Stepped) and not of(seen, Saved):
            signal.raise_signal(signal.SIGINT)
        flush(descriptor)

    monkeypatch.setattr("danqing.atomic.os.fsync", interrupted)
    with pytest.MonkeyPatch.context() as once:
        once.setattr(signal, "raise_signal", only_once(signal.raise_signal))
        for event in train(own, CPU):
            seen.append(event)
    monkeypatch.undo()
    skip_simulation(monkeypatch)
    assert of(seen, Saved) == [Saved(2)]
    assert not drafts(tmp_path)
    assert of(told(own), Resumed) == [Resumed(2)]
    assert Path(own.out).read_bytes() == straight


def only_once(call: Callable[[int], None]) -> Callable[[int], None]:
    calls: list[int] = []

    def wrapped(number: int) -> None:
        calls.append(number)
        if len(calls) == 1:
            call(number)

    return wrapped


# ---- all weights ------------------------------------------------------------------------------


@pytest.fixture
def full(own: Settings, tmp_path: Path) -> Settings:
    return changed(own, kind="full", out=str(tmp_path / "whole"), rate=1e-4, steps=2)


def test_the_model_of_before_stays_until_there_is_a_new_one(
    full: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(full)
    before = files(Path(full.out))
    assert before
    on(Disk(room=10_000), monkeypatch)
    with pytest.raises(OutputError):
        told(full)  # it is done, and writes the model again
    assert files(Path(full.out)) == before


def test_a_folder_that_came_meanwhile_is_not_replaced(full: Settings) -> None:
    killed_after(changed(full, save_every=1), 2)
    Path(full.out).mkdir()
    (Path(full.out) / "thesis.txt").write_text("precious")
    assert "give another --out" in stopped(full, OutputError)[1]
    assert (Path(full.out) / "thesis.txt").read_text() == "precious"
