"""Work on several things at a time, told in order."""

import threading
import time

import pytest

from danqing.training.data.parallel import MAX_THREADS, at_once


def test_outcomes_come_in_order() -> None:
    def work(n: int) -> int:
        time.sleep(0.01 if n % 3 == 0 else 0)
        return n * n

    assert list(at_once(work, range(30))) == [n * n for n in range(30)]
    assert list(at_once(work, [])) == []


def test_several_are_under_way_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    meeting = threading.Barrier(2, timeout=20)
    assert len(list(at_once(lambda _: meeting.wait(), range(4)))) == 4


def test_an_error_is_raised() -> None:
    def work(n: int) -> int:
        if n == 2:
            raise KeyError(n)
        return n

    with pytest.raises(KeyError):
        list(at_once(work, range(5)))


def test_who_stops_early_does_not_wait_for_all() -> None:
    begun, lock = [], threading.Lock()

    def work(n: int) -> int:
        with lock:
            begun.append(n)
        time.sleep(0.005)
        return n

    outcomes = at_once(work, range(500))
    assert next(outcomes) == 0
    outcomes.close()  # type: ignore[attr-defined]
    assert len(begun) < 10 * MAX_THREADS
