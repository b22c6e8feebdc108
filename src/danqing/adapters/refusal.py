"""Refusing an adapter with the list of what is wrong with it: at most ten faults, and the count."""

from collections.abc import Callable

from danqing.errors import AdapterError

LISTED = 10
Refuse = Callable[[str, list[str]], None]


def refusal(name: str) -> Refuse:
    """Of this adapter: does nothing where there are no faults."""

    def refuse(what: str, faults: list[str]) -> None:
        if faults:
            raise AdapterError(f"adapter {name} {what}: {listed(faults)}")

    return refuse


def listed(faults: list[str]) -> str:
    shown = ", ".join(printable(fault) for fault in faults[:LISTED])
    return shown if len(faults) <= LISTED else f"{shown} and {len(faults) - LISTED} more"


def printable(text: str, most: int = 200) -> str:
    """A stranger's words without the characters that break lines or steer a terminal."""
    shown = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return shown if len(shown) <= most else f"{shown[:most]}..."
