"""Data that someone else packed, to deceive or by accident: told as faults, whatever they hold."""

import io
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from danqing.errors import DataError
from danqing.training import report
from danqing.training.data.check import check
from danqing.training.data.gather import gather
from danqing.training.data.records import Record, Source
from danqing.training.journal import LOG, encoded
from tests.training.pictures import encoded as picture
from tests.training.pictures import photo, save, shard, write

PNG = picture(photo((16, 16)))


def found(path: Path) -> list[Record]:
    records = gather([Source(path)])
    check(records)
    return records


def refused(path: Path) -> str:
    """The faults of data that cannot be used; each is one line and begins with a place."""
    with pytest.raises(DataError) as caught:
        found(path)
    faults = getattr(caught.value, "faults", (str(caught.value),))
    assert not any("\n" in fault for fault in faults)
    assert all(fault.startswith(str(path)) for fault in faults)
    return "\n".join(faults)


# ---- shards -----------------------------------------------------------------------------------


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A member's header that says any size at all."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    sign = b"\xff" if size < 0 else b"\x80"
    small = 0 <= size < 8**11
    block[124:136] = b"%011o\0" % size if small else sign + (size % 256**11).to_bytes(11, "big")
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    return bytes(block)


PAX, LONG = tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME
WHOLE = header("a.png", len(PNG)) + PNG.ljust(-(-len(PNG) // 512) * 512, b"\0")
TEXT = header("a.txt", 5) + b"a fox".ljust(512, b"\0")
OTHER = header("b.png", len(PNG)) + WHOLE[512:]
HEADERS = {
    "larger than any file": header("b.png", 2**63),
    "larger than any number": header("b.png", 2**80),
    "larger than the disk": header("b.png", 2**62),
    "less than nothing": header("b.png", -512),
    "one less than nothing": header("b.png", -1),
    "a name of a terabyte": header("x", 2**40, LONG),
    "a name of less than nothing": header("x", -5, LONG),
    "fields of a terabyte": header("x", 2**40, PAX),
    "no name": header(".", 5) + b"a fox".ljust(512, b"\0"),
    "holes": header("x", 25, PAX) + b"25 GNU.sparse.map=1,2,3,4\n".ljust(512, b"\0") + OTHER,
    "fields of no length": header("x", 7, PAX) + b"0 a=1\n".ljust(512, b"\0") + OTHER,
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_lie(tmp_path: Path, case: str) -> None:
    path = write(tmp_path / "s.tar", WHOLE + TEXT + HEADERS[case] + bytes(1024))
    assert outcome(path) in ("refused", [f"{path}: a"])  # passed over, nothing of it is used


def outcome(path: Path) -> str | list[str]:
    """That it is refused, or the places of what is found."""
    try:
        return [record.origin for record in found(path)]
    except DataError as error:
        return "refused" if str(path) in str(error) and "\n" not in str(error) else str(error)


@pytest.mark.parametrize(
    "name", ["../a", "/etc/a", "./../../a", "x" * 300, "a b", "狐", "\udcff"], ids=ascii
)
def test_names_in_a_shard_lead_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nothing is unpacked: a name is a name, and the bytes are the shard's."""
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        for suffix, content in ((".png", PNG), (".txt", b"a fox")):
            member = tarfile.TarInfo(name + suffix)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    if ".." in name:
        assert "holds no picture" in refused(path)
        return
    (record,) = found(path)
    assert record.image.read() == PNG
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.tar"]


def test_a_key_with_a_new_line_stays_on_one(tmp_path: Path) -> None:
    assert "has no caption" in refused(shard(tmp_path / "s.tar", {"a\nb.png": PNG}))


# ---- metadata ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        '{"image": "\\ud800.png", "text": "a"}',
        '{"image": "a.png", "text": "a", "mask": "\\ud800.png"}',
        '{"image": "a.png\\n", "text": "a"}',
        '{"image": "a.png", "text": "\\ud800"}',
        '{"image": "a.png", "text": "a", "repeats": 1000000000000}',
        '{"image": "%s.png", "text": "a"}' % ("x" * 300),
        '{"image": ".", "text": "a"}',
    ],
    ids=lambda row: row[:40],
)
def test_rows_of_strangers(tmp_path: Path, row: str) -> None:
    save(tmp_path / "a.png")
    path = write(tmp_path / "metadata.jsonl", row)
    assert f"{path} line 1: " in refused(path)


# ---- what is no file --------------------------------------------------------------------------


@contextmanager
def opened_after(path: Path, seconds: float) -> Iterator[None]:
    """Whoever waits for the other end of a pipe gets it at last."""

    def release() -> None:
        with suppress(OSError):  # nobody waits
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    timer = threading.Timer(seconds, release)
    timer.start()
    yield
    timer.cancel()
    timer.join()


@pytest.mark.parametrize("name", ["b.png", "a.txt"])
def test_nobody_waits_for_a_pipe(tmp_path: Path, name: str) -> None:
    save(tmp_path / "a.png")
    os.mkfifo(tmp_path / name)
    started = time.monotonic()
    with opened_after(tmp_path / name, 2.0):
        assert name.removesuffix(".txt") in refused(tmp_path)
    assert time.monotonic() - started < 1.5


# ---- a log that was damaged -------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        {"kind": "start", "step": 0, "settings": 5},
        {"kind": "start", "step": 0, "facts": [1]},
        {"kind": "start", "step": 0, "predicted_bytes": [1]},
        {"kind": "evaluation", "step": 1, "loss": 1.0, "by_sigma": {"0.1x": 1.0}, "best": True},
        {"kind": "evaluation", "step": 1, "loss": 1.0, "by_sigma": True, "best": True},
        {"kind": "step", "step": 1, "loss": [1], "rate": "x", "seconds": "x"},
        {"kind": "sample", "step": 1, "sheet": [1], "title": 5},
        {"kind": "end", "step": 1, "reason": "done", "peak_bytes": "x"},
        {"kind": "end", "step": 1, "reason": "done", "files": 5},
        {"kind": "end", "step": 1, "reason": 5, "files": {"a": 5}},
    ],
    ids=lambda line: str(line)[:60],
)
def test_a_report_is_drawn_of_any_log(tmp_path: Path, line: dict[str, object]) -> None:
    before = [{"kind": "start", "step": 0, "settings": {"out": "mine.safetensors", "steps": 2}}]
    write(tmp_path / LOG, b"".join(encoded(own) for own in [*before, line]))
    assert report.write(tmp_path).read_text("utf-8").startswith("<!")
