"""The log of a training: every line at once on the disk, and cut back where it is resumed."""

import json
import math
import os
import runpy
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from danqing.errors import OutputError
from danqing.training import journal
from danqing.training.journal import Journal
from danqing.training.loop import Due, Evaluated, Saved, Stepped
from danqing.training.measure import SIGMAS, Measured
from tests.training.pictures import photo

BOARD = "torch.utils.tensorboard"
MEASURED = Measured(0.5, 0.4, 0.6, -0.1, -0.2, -0.05, tuple(s / 2 for s in SIGMAS))


def stepped(step: int, loss: float = 0.25) -> Stepped:
    return Stepped(step, loss, prior=0.125, rate=1e-4, norm=2.0, seconds=0.5)


def strictly(raw: bytes) -> Any:
    """As a reader that holds to the standard reads JSON."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    return json.loads(raw, parse_constant=refuse)


def lines(folder: Path) -> list[Any]:
    content = (folder / "log.jsonl").read_bytes()
    assert content.endswith(b"\n")
    return [strictly(raw) for raw in content.split(b"\n")[:-1]]


@pytest.fixture
def no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, BOARD, None)  # as if it were not installed


@pytest.mark.usefixtures("no_board")
class TestLog:
    def test_every_event_is_on_the_disk_before_the_next(self, tmp_path: Path) -> None:
        written = Journal(tmp_path)
        written.start({"rate": 1e-4}, facts={"pictures": 3}, command="danqing train", predicted=9)
        assert lines(tmp_path)[-1] == {
            "kind": "start", "step": 0, "settings": {"rate": 1e-4}, "facts": {"pictures": 3},
            "command": "danqing train", "predicted_bytes": 9,
        }  # fmt: skip
        written.tell(stepped(1))
        assert lines(tmp_path)[-1] == {
            "kind": "step", "step": 1, "loss": 0.25, "prior": 0.125, "rate": 1e-4, "norm": 2.0,
            "seconds": 0.5,
        }  # fmt: skip
        written.tell(Evaluated(1, MEASURED, best=True))
        assert lines(tmp_path)[-1] == {
            "kind": "evaluation", "step": 1, "loss": 0.5, "low": 0.4, "high": 0.6, "change": -0.1,
            "change_low": -0.2, "change_high": -0.05, "best": True,
            "by_sigma": {"0.1": 0.05, "0.25": 0.125, "0.4": 0.2, "0.55": 0.275, "0.7": 0.35,
                         "0.85": 0.425, "0.95": 0.475},
        }  # fmt: skip
        written.tell(Due(1))
        written.sample(1, tmp_path / "samples" / "1.png", title="few steps")
        sample = {"kind": "sample", "step": 1, "sheet": "samples/1.png", "title": "few steps"}
        assert lines(tmp_path)[3:] == [sample]
        written.tell(Saved(1))
        assert lines(tmp_path)[-1] == {"kind": "saved", "step": 1}
        written.end("done", peak=10, predicted=9, files={"a.safetensors": "the adapter"})
        assert lines(tmp_path)[-1] == {
            "kind": "end", "step": 1, "reason": "done", "peak_bytes": 10, "predicted_bytes": 9,
            "files": {"a.safetensors": "the adapter"},
        }  # fmt: skip
        written.close()

    def test_a_resumed_training_goes_on_at_its_step(self, tmp_path: Path) -> None:
        with Journal(tmp_path) as killed:
            killed.start({})
            for step in range(1, 8):
                killed.tell(stepped(step))
            killed.tell(Evaluated(5, MEASURED, best=True))
        before = lines(tmp_path)
        with Journal(tmp_path, 5) as resumed:
            resumed.start({})
            resumed.end("done")
        *kept, start, end = lines(tmp_path)
        assert kept == [line for line in before if line["step"] <= 5]
        assert len(kept) == 7
        assert start["step"] == end["step"] == 5

    def test_what_was_written_in_half_is_dropped(self, tmp_path: Path) -> None:
        with Journal(tmp_path) as killed:
            killed.tell(stepped(1))
            killed.tell(stepped(2))
        path = tmp_path / "log.jsonl"
        path.write_bytes(path.read_bytes()[:-9])
        assert [line["step"] for line in journal.read(tmp_path)] == [1]
        with Journal(tmp_path, 2) as resumed:
            resumed.tell(stepped(3))
        assert [line["step"] for line in lines(tmp_path)] == [1, 3]

    def test_a_last_line_without_its_end_is_kept_whole(self, tmp_path: Path) -> None:
        with Journal(tmp_path) as killed:
            killed.tell(stepped(1))
        path = tmp_path / "log.jsonl"
        path.write_bytes(path.read_bytes()[:-1])
        with Journal(tmp_path, 1) as resumed:
            resumed.tell(stepped(2))
        assert [line["step"] for line in lines(tmp_path)] == [1, 2]

    @pytest.mark.parametrize(
        "damage", [b"\x00\x00\xff", b"[1, 2]", b'{"step": 1}', b'{"kind": "step", "step": "1"}']
    )
    def test_damaged_lines_are_passed_over(self, tmp_path: Path, damage: bytes) -> None:
        with Journal(tmp_path) as whole:
            whole.tell(stepped(1))
        with (tmp_path / "log.jsonl").open("ab") as file:
            file.write(damage + b"\n" + journal.encoded({"kind": "saved", "step": 1}))
        assert [line["kind"] for line in journal.read(tmp_path)] == ["step", "saved"]
        Journal(tmp_path, 1).close()
        assert [line["kind"] for line in lines(tmp_path)] == ["step", "saved"]

    def test_a_training_that_begins_anew_has_an_empty_log(self, tmp_path: Path) -> None:
        with Journal(tmp_path) as killed:
            killed.tell(Evaluated(0, MEASURED, best=True))
        Journal(tmp_path).close()
        assert (tmp_path / "log.jsonl").read_bytes() == b""

    def test_a_failed_cut_leaves_the_log_as_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Journal(tmp_path) as killed:
            killed.tell(stepped(1))
            killed.tell(stepped(2))
        before = (tmp_path / "log.jsonl").read_bytes()

        def full(*paths: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OutputError, match="free some space"):
            Journal(tmp_path, 1)
        assert (tmp_path / "log.jsonl").read_bytes() == before

    def test_numbers_that_are_not_finite_are_null(self, tmp_path: Path) -> None:
        with Journal(tmp_path) as written:
            written.start({"nodes": (1.0, math.inf)})
            written.tell(stepped(1, math.nan))
            odd = Measured(math.nan, -math.inf, math.inf, 0.0, 0.0, 0.0, (math.nan,) * len(SIGMAS))
            written.tell(Evaluated(1, odd, best=False))
        start, step, evaluation = lines(tmp_path)
        assert start["settings"] == {"nodes": [1.0, None]}
        assert step["loss"] is evaluation["low"] is evaluation["by_sigma"]["0.1"] is None

    @pytest.mark.parametrize(
        "prompt", ["一只红色的狐狸", "one\u2028two\x85three\n", "b\udcffd.png"]
    )
    def test_any_text_comes_back(self, tmp_path: Path, prompt: str) -> None:
        with Journal(tmp_path, 1) as written:
            written.start({"prompt": prompt})
        Journal(tmp_path, 1).close()
        assert journal.read(tmp_path)[0]["settings"]["prompt"] == prompt

    def test_without_tensorboard_it_says_so_and_goes_on(self, tmp_path: Path) -> None:
        with Journal(tmp_path) as written:
            note = written.start({})
            written.tell(stepped(1))
            written.sample(1, tmp_path / "1.png", {"fox": photo()})
        assert note is not None
        assert "TensorBoard" in note
        assert [line["kind"] for line in lines(tmp_path)] == ["start", "step", "sample"]
        assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]

    def test_tensorboard_is_imported_only_when_a_journal_is_made(self) -> None:
        assert "Journal" in runpy.run_path(str(journal.__file__))

    def test_a_place_that_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match="file"):
            Journal(tmp_path / "file")

    def test_a_full_disk_is_told(self, tmp_path: Path) -> None:
        written = Journal(tmp_path)
        written.close()
        with Path("/dev/full").open("ab", buffering=0) as full:
            written._file = full
            with pytest.raises(OutputError, match="free some space"):
                written.tell(stepped(1))


def test_no_log_has_no_lines(tmp_path: Path) -> None:
    assert journal.read(tmp_path) == []


# ---- TensorBoard ------------------------------------------------------------------------------


def shown(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def test_tensorboard_shows_what_was_told_at_once(tmp_path: Path) -> None:
    with Journal(tmp_path) as written:
        assert written.start({}) is None
        written.tell(stepped(1))
        written.tell(Evaluated(1, MEASURED, best=True))
        assert shown(tmp_path).Scalars("held_out/change")  # not closed yet
        for step in range(2, 40):
            written.tell(stepped(step))
        found = shown(tmp_path)
        assert len(found.Scalars("train/seconds")) == 39
        written.sample(1, tmp_path / "1.png", {"fox": photo((40, 32))})
        (image,) = shown(tmp_path).Images("samples/fox")
    scalars = {tag: found.Scalars(tag)[0].value for tag in found.Tags()["scalars"]}
    assert scalars == pytest.approx(
        {
            "train/loss": 0.25, "train/prior": 0.125, "train/rate": 1e-4, "train/norm": 2.0,
            "train/seconds": 0.5, "held_out/loss": 0.5, "held_out/change": -0.1,
        }
    )  # fmt: skip
    assert (image.step, image.width, image.height) == (1, 40, 32)


def test_tensorboard_hides_what_a_killed_training_drew_later(tmp_path: Path) -> None:
    with Journal(tmp_path) as killed:
        for step in (1, 2, 3, 4):
            killed.tell(stepped(step, loss=1.0))
    with Journal(tmp_path, 2) as resumed:
        resumed.tell(stepped(3, loss=2.0))
    found = [(event.step, event.value) for event in shown(tmp_path).Scalars("train/loss")]
    assert found == [(1, 1.0), (2, 1.0), (3, 2.0)]
