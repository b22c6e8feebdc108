"""The bar: drawn for a person, on stderr only, and counting right."""

import io
import sys
from collections.abc import Callable

import pytest

from danqing.cli import painting
from danqing.types import Progress, Request


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch) -> Callable[[], Terminal]:
    """Makes stderr a terminal; called in the test's body, where pytest's capture stands already."""

    def terminal() -> Terminal:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return terminal


def test_a_person_sees_steps_pictures_and_time(run, terminal):
    terminal = terminal()
    done = run("generate", "fox", "--seed", "7", "--count", "2")
    drawn = terminal.getvalue()
    assert "loading mini" in drawn
    assert "2 pictures" in drawn
    assert "left" in drawn
    assert done.out.splitlines() == ["outputs/fox-7.png", "outputs/fox-8.png"]


def test_a_program_sees_none(run):
    assert run("generate", "fox", "--seed", "7").err == ""


def test_it_counts_steps_of_all_pictures(terminal, pipeline):
    terminal()
    requests = [Request("a"), Request("b", steps=5), Request("c", sigmas=(1.0, 0.5, 0.0))]
    bar = painting._Bar(pipeline.check(requests))
    assert bar._bar.tasks[0].total == 4 + 6 + 3
    bar.step(Progress(2, 5, (0, 1), list))
    assert bar._bar.tasks[0].completed == 4
    assert bar._bar.tasks[0].description == "step 2/5"
    assert bar._bar.tasks[0].total == 6 + 6 + 3
