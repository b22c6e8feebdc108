"""A refusal that lists everything."""

import pytest

from danqing.errors import DataError
from danqing.training.data.faults import DataFaults, named


def test_one_fault_is_one_line() -> None:
    error = DataFaults(["a.png: is cut"])
    assert str(error) == "the training data have a fault: a.png: is cut"
    assert error.faults == ("a.png: is cut",)


def test_the_first_line_has_the_count_and_the_first_fault() -> None:
    lines = str(DataFaults(["a", "b", "c"])).splitlines()
    assert lines == ["the training data have 3 faults: a;", "b;", "c"]


def test_the_message_lists_twenty_and_the_attribute_all() -> None:
    faults = [f"picture {n}" for n in range(50)]
    error = DataFaults(faults)
    lines = str(error).splitlines()
    assert error.faults == tuple(faults)
    assert len(lines) == 21
    assert lines[19:] == ["picture 19;", "and 30 more"]


def test_twenty_faults_are_all_shown() -> None:
    assert str(DataFaults(["x"] * 20)).splitlines()[-1] == "x"


def test_a_fault_from_within_gets_its_place() -> None:
    with pytest.raises(DataError, match=r"^a.png: is cut$"), named("a.png"):
        raise DataError("is cut")
