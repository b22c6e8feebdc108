import shutil
from pathlib import Path

import pytest

from danqing.weights import fingerprint as module
from danqing.weights.fingerprint import fingerprint
from tests import tiny
from tests.weights.edit import weights_file


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_it_is_16_hexadecimal_digits(tiny_model: Path) -> None:
    assert len(fingerprint(tiny_model)) == 16
    assert int(fingerprint(tiny_model), 16) > 0


def test_it_does_not_depend_on_the_place(tiny_model: Path, tiny_copy: Path, tmp_path: Path) -> None:
    before = fingerprint(tiny_model)
    assert fingerprint(tiny_copy) == before
    assert fingerprint(Path(shutil.move(tiny_copy, tmp_path / "elsewhere"))) == before


def test_every_file_counts_with_its_last_byte(tiny_copy: Path) -> None:
    seen = {fingerprint(tiny_copy)}
    files = (path for path in sorted(tiny_copy.rglob("*")) if path.is_file())
    paths = [path for path in files if path.name not in module.BESIDE]
    for path in paths:
        flip(path, -1)
        seen.add(fingerprint(tiny_copy))
    assert len(seen) == len(paths) + 1 > 10


@pytest.mark.parametrize("place", [0, 5000, -5000])
def test_every_byte_counts(tiny_copy: Path, place: int) -> None:
    before = fingerprint(tiny_copy)
    flip(weights_file(tiny_copy, "transformer"), place)
    assert fingerprint(tiny_copy) != before


def test_names_count(tiny_copy: Path) -> None:
    before = fingerprint(tiny_copy)
    (tiny_copy / "model_index.json").rename(tiny_copy / "model_index2.json")  # its place stays
    assert fingerprint(tiny_copy) != before


def test_what_is_not_the_model_does_not_count(tiny_copy: Path) -> None:
    before = fingerprint(tiny_copy)
    (tiny_copy / "README.md").write_text("read me")
    (tiny_copy / "picture.png").write_bytes(b"png")
    (tiny_copy / "prompts.txt").write_text("a fox")
    tiny.change(tiny_copy / "danqing.json", steps=4)
    (tiny_copy / "adapters").mkdir()
    (tiny_copy / "adapters" / "ink.safetensors").write_bytes(b"its own file says what it is")
    assert fingerprint(tiny_copy) == before


def test_large_files_count_with_ends_and_samples(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE", 2**20)
    monkeypatch.setattr(module, "SAMPLE", 2**9)
    path = weights_file(tiny_copy, "vae")
    seen = {fingerprint(tiny_copy)}
    size = path.stat().st_size
    for place in (0, 16 * 2**9 - 1, (size - 2**9) * 100 // 255 + 7, size - 1):
        flip(path, place)
        seen.add(fingerprint(tiny_copy))
    assert len(seen) == 5
