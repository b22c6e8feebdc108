import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing a file to the disk can take seconds while others write; nothing here needs it."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
