"""Refusing training data with the list of all that is wrong with them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from danqing.adapters.refusal import printable
from danqing.errors import DataError

LONGEST = 2000  # characters of a fault
LISTED = 20  # of the faults, in the message


class DataFaults(DataError):
    """Training data with faults, each named with its place.

    Attributes:
        faults: all of them, one line each; the message holds the first twenty.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(printable(fault, LONGEST) for fault in faults)
        super().__init__(message(self.faults))


def message(faults: Sequence[str]) -> str:
    """The count and the first fault on the first line, the others one per line."""
    if len(faults) == 1:
        return f"the training data have a fault: {faults[0]}"
    lines = [f"the training data have {len(faults)} faults: {faults[0]}", *faults[1:LISTED]]
    if len(faults) > LISTED:
        lines.append(f"and {len(faults) - LISTED} more")
    return ";\n".join(lines)


@contextmanager
def named(origin: str) -> Iterator[None]:
    """Give a DataError from within the place that it is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{origin}: {error}") from error
