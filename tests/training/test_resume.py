"""A training that was killed goes on as if it had not been: losses and file, bit for bit."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from danqing.adapters.store import digest
from danqing.errors import TrainingError
from danqing.training import checkpoint
from danqing.training.loop import Saved, Stepped
from tests.training import small

VALUES = {"steps": 60, "save_every": 4, "evaluate_every": 30, "prior": 0.1, "batch": 1}


def start(folder: Path, dtype: str) -> "subprocess.Popen[str]":
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "tests.training.killed",
        str(folder),
        json.dumps(VALUES),
        dtype,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(folder: Path, dtype: str) -> None:
    with start(folder, dtype) as process:
        process.communicate()
    assert process.returncode == 0


def logged(folder: Path) -> dict[int, str]:
    """The last line of each step: a step made again after a kill must have said the same."""
    found: dict[int, str] = {}
    for line in (folder / "losses.txt").read_text().splitlines():
        step, _, rest = line.partition(" ")
        assert found.setdefault(int(step), rest) == rest, f"step {step} came out otherwise"
    return found


@pytest.mark.parametrize(("dtype", "kills"), [("float32", 5), ("bfloat16", 2)])
def test_killed_at_random_instants(tmp_path: Path, dtype: str, kills: int) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finish(straight, dtype)
    instants = sorted(random.Random(dtype).sample(range(2, 58), kills))
    for instant in instants:
        with start(broken, dtype) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= instant:
                    break
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    finish(broken, dtype)
    assert logged(straight) == logged(broken)
    assert len(logged(straight)) == 60
    assert digest(straight / "mine.safetensors") == digest(broken / "mine.safetensors")


@pytest.mark.parametrize("moment", ["before", "draft", "moved"])
def test_killed_in_the_middle_of_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    own = small.settings()
    straight = small.training(tmp_path / "straight", own)
    expected = small.losses(list(straight.run()))

    def killed(*_: object, **__: object) -> None:
        if moment == "draft":
            (tmp_path / "broken" / ".danqing-1.tmp").write_bytes(b"half")
        raise KeyboardInterrupt

    found = []
    broken = small.training(tmp_path / "broken", own)
    for event in broken.run():
        if isinstance(event, Stepped):
            found.append((event.step, event.loss, event.prior, event.norm))
        if isinstance(event, Saved) and event.step == 3:
            target = "danqing.atomic.write" if moment != "before" else "torch.save"
            monkeypatch.setattr(target, killed)
        if isinstance(event, Stepped) and event.step == 6:
            break
    with pytest.raises(KeyboardInterrupt):
        broken.save()
    monkeypatch.undo()
    again = small.training(tmp_path / "broken", own)
    assert again.step == 3
    found = found[:3] + small.losses(list(again.run()))
    assert found == expected
    ours, theirs = small.weights(again), small.weights(straight)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("optimiser", ["adamw", "prodigy", "adamw8bit"])
@pytest.mark.parametrize("values", [{}, {"dora": True}, {"checkpointing": True}], ids=str)
def test_stopped_and_begun_again(tmp_path: Path, optimiser: str, values: dict[str, object]) -> None:

    own = small.settings(optimiser=optimiser, **values)
    expected = small.losses(list(small.training(tmp_path / "straight", own).run()))
    found = []
    for stop in (4, 9, 12):
        run = small.training(tmp_path / "broken", own)
        for event in run.run():
            if isinstance(event, Stepped):
                found.append((event.step, event.loss, event.prior, event.norm))
                if event.step == stop:
                    break
        run.save()
    assert found == expected


def test_a_state_that_was_cut_is_not_taken(tmp_path: Path) -> None:
    own = small.settings()
    list(small.training(tmp_path, own).run())
    state = tmp_path / checkpoint.STATE
    state.write_bytes(state.read_bytes()[:-7])
    assert small.training(tmp_path, own).step == 9  # the save before


def test_other_settings_are_named(tmp_path: Path) -> None:
    own = small.settings()
    list(small.training(tmp_path, own).run())
    with pytest.raises(TrainingError, match=r"other settings \(rank was 4 and is 8; rate was 0.01"):
        small.training(tmp_path, small.changed(own, rank=8, rate=0.5))
    assert small.training(tmp_path, small.changed(own, save_every=1, threads=1)).step == 12


def test_a_done_training_makes_no_further_step(tmp_path: Path) -> None:
    own = small.settings()
    list(small.training(tmp_path, own).run())
    again = small.training(tmp_path, own)
    assert again.done
    assert small.losses(list(again.run())) == []
