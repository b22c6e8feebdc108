"""What is written down of a training, whatever becomes of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from danqing.errors import TrainingError
from danqing.training import journal
from danqing.training.loop import ASKED, DONE, Saved, Stepped
from danqing.training.record import record
from danqing.training.results import best_path, run_folder
from danqing.training.run import Finished, Found, Quantised, Resumed, Sampled, Told
from danqing.training.settings import Settings
from tests.training import small

WAYS = ("full schedule", "few steps")


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    prompts = ("a fox", "一只猫")
    settings = small.settings(out=str(tmp_path / "mine.safetensors"), sample_seeds=[4, 5, 6])
    run_folder(settings).mkdir()
    return replace(settings, prompts=prompts)


def step(number: int) -> Stepped:
    return Stepped(number, loss=1 / number, prior=0.0, rate=1e-3, norm=1.0, seconds=0.1)


def sampled(number: int) -> Sampled:
    images = [Image.new("RGB", (16, 16), (n, number, 0)) for n in range(6)]
    return Sampled(number, {way: list(images) for way in WAYS})


def finished(own: Settings, reason: str) -> Finished:
    return Finished(3, (Path(own.out), best_path(own)), peak=2**30, planned=2**29, reason=reason)


def lines(own: Settings, kind: str) -> list[journal.Line]:
    return [line for line in journal.read(run_folder(own)) if line["kind"] == kind]


def page(own: Settings) -> str:
    return (run_folder(own) / "report.html").read_text("utf-8")


def test_events_pass_through_and_are_written_down(own: Settings) -> None:
    events: list[Told] = [Found(9, 1, {"64x64": 9}), Quantised(0.0123), sampled(0)]
    events += [step(1), step(2), Saved(2), step(3), sampled(3), Saved(3), finished(own, DONE)]
    assert list(record(iter(events), own, "danqing train lora --data photos")) == events
    (start,) = lines(own, "start")
    assert start["facts"] == {
        "pictures": 9, "held out": 1, "sizes": {"64x64": 9}, "velocity's rounding": 0.0123
    }  # fmt: skip
    assert [line["step"] for line in lines(own, "step")] == [1, 2, 3]
    (end,) = lines(own, "end")
    assert (end["reason"], end["peak_bytes"], end["predicted_bytes"]) == (DONE, 2**30, 2**29)
    assert list(end["files"]) == [own.out, str(best_path(own))]
    assert "danqing train lora --data photos" in page(own)


def test_a_sheet_for_each_way_with_a_row_for_each_prompt(own: Settings) -> None:
    list(record(iter([sampled(0), step(1), sampled(1)]), own))
    found = lines(own, "sample")
    assert [(line["step"], line["title"]) for line in found] == [
        (n, w) for n in (0, 1) for w in WAYS
    ]
    for line in found:
        with Image.open(run_folder(own) / line["sheet"]) as sheet:
            assert sheet.width > sheet.height  # three seeds across, two prompts down
    assert page(own).count('<img alt="samples of') == 4


def test_a_stop_says_how_to_go_on(own: Settings) -> None:
    list(record(iter([step(1), finished(own, ASKED)]), own))
    assert lines(own, "end")[0]["reason"] == f"{ASKED}; the same command goes on"
    assert "the same command goes on" in page(own)


def test_an_error_is_in_the_log_and_on_the_page(own: Settings) -> None:
    def events() -> Iterator[Told]:
        yield step(1)
        raise TrainingError("the loss is nan at step 2")

    with pytest.raises(TrainingError, match="the loss is nan at step 2"):
        list(record(events(), own))
    assert lines(own, "end")[0]["reason"] == "the loss is nan at step 2"
    assert "the loss is nan at step 2" in page(own)


def test_an_error_before_the_loop_leaves_the_log_alone(own: Settings) -> None:
    list(record(iter([step(1), finished(own, DONE)]), own))
    before = journal.read(run_folder(own))

    def events() -> Iterator[Told]:
        yield Found(9, 1, {"64x64": 9})
        raise TrainingError("other settings")

    with pytest.raises(TrainingError):
        list(record(events(), own))
    assert journal.read(run_folder(own)) == before


def test_a_resumed_log_goes_on_at_its_step(own: Settings) -> None:
    list(record(iter([step(1), Saved(1), step(2), step(3)]), own))  # killed: 2 and 3 were not saved
    list(record(iter([Resumed(1), step(2), finished(own, DONE)]), own))
    assert [line["step"] for line in lines(own, "step")] == [1, 2]
    assert [line["step"] for line in lines(own, "start")] == [0, 1]
