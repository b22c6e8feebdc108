"""Files that are no safetensors are refused by name, and nothing in them is run."""

import io
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from danqing.adapters import formats, safe
from danqing.errors import AdapterError
from tests.adapters import files
from tests.adapters.files import TO_Q


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return files.write(tmp_path / "ink.safetensors", files.tensors(files.make()), {"format": "pt"})


def refused(path: Path) -> str:
    with pytest.raises(AdapterError) as caught:
        formats.read(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


# ---- what is read -----------------------------------------------------------------------------


def test_tensors_and_metadata(sound: Path) -> None:
    tensors, metadata = safe.read_tensors(sound)
    expected = files.tensors(files.make())
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert metadata == {"format": "pt"}


def test_a_read_adapter_does_not_follow_its_file(sound: Path) -> None:
    """The file may be written anew, in place, while the adapter is in use."""
    tensors, _ = safe.read_tensors(sound)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    size = sound.stat().st_size
    with sound.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\x3f" * (size - size // 2))
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


@pytest.mark.parametrize("name", safe.IN_FOLDER)
def test_a_folder_as_peft_and_diffusers_write_it(tmp_path: Path, name: str) -> None:
    path = files.write(tmp_path / "style" / name, files.tensors(files.make()))
    assert safe.locate(path.parent) == path
    assert formats.read(path.parent).updates.keys() == set(files.SOME)


def test_pefts_settings_beside_the_weights_are_read(tmp_path: Path) -> None:
    path = files.write(tmp_path / "adapter_model.safetensors", files.tensors(files.make(), "peft"))
    config = {"r": 4, "lora_alpha": 8, "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    for place in (tmp_path, path):
        assert {update.alpha for update in formats.read(place).updates.values()} == {8.0}


def test_settings_beside_another_file_are_not_its_own(tmp_path: Path) -> None:
    path = files.write(tmp_path / "ink.safetensors", files.tensors(files.make(), "peft"))
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}')
    assert {update.alpha for update in formats.read(path).updates.values()} == {None}


# ---- what is not ------------------------------------------------------------------------------


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.safetensors"
    assert f"cannot read adapter {path}: No such file or directory" in refused(path)


def test_a_folder_without_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    message = refused(tmp_path)
    assert "is a folder without adapter_model.safetensors or pytorch_lora_weights" in message


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, -5000, -1])
def test_a_truncated_file(sound: Path, length: int) -> None:
    sound.write_bytes(sound.read_bytes()[:length])
    assert "is truncated or not a safetensors file" in refused(sound)


OTHER_FILES = {
    "text": b"this is a text, and no adapter at all",
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "archive": b"\x1f\x8b\x08\x00" + bytes(100),
    "zeros": bytes(1000),
    "no header": struct.pack("<Q", 0),
    "a header that is no JSON": struct.pack("<Q", 8) + b"no JSON!",
    "a header that is a list": struct.pack("<Q", 2) + b"[]",
    "a header beyond the file": struct.pack("<Q", 10**6) + b"{}",
    "a header beyond the format": struct.pack("<Q", 2**63) + b"{}",
    "a deep header": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "a header in UTF-16": struct.pack("<Q", 6) + "{}".encode("utf-16"),
}


@pytest.mark.parametrize("content", OTHER_FILES.values(), ids=OTHER_FILES)
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ink.safetensors"
    path.write_bytes(content)
    assert "is truncated or not a safetensors file" in refused(path)


def raw(header: str, data: bytes) -> bytes:
    return struct.pack("<Q", len(header.encode())) + header.encode() + data


def entry(dtype: str, *shape: int, start: int = 0, stop: int = 0) -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": [start, stop]})


A, B = (f'"{TO_Q}.lora_{half}.weight"' for half in "AB")
SLIM, WIDE = entry("F32", 1, 64, stop=256), entry("F32", 64, 1, start=256, stop=512)
HEADERS = {
    "a name twice": f"{{{A}: {SLIM}, {B}: {WIDE}, {B}: {WIDE}}}",
    "metadata twice": f'{{"__metadata__": {{}}, "__metadata__": {{}}, {A}: {SLIM}, {B}: {WIDE}}}',
    "an unknown type": f"{{{A}: {SLIM}, {B}: {entry('F7', 64, 1, start=256, stop=512)}}}",
    "a broken line": f"{{{A}: {SLIM}, {B}: {entry(chr(10), 64, 1, start=256, stop=512)}}}",
    "a shape too large": f"{{{A}: {SLIM}, {B}: {entry('F32', 64, 9, start=256, stop=512)}}}",
    "data that overlap": f"{{{A}: {SLIM}, {B}: {entry('F32', 64, 1, start=0, stop=256)}}}",
    "data beyond the file": f"{{{A}: {SLIM}, {B}: {entry('F32', 64, 1, start=256, stop=999)}}}",
    "no shape": f'{{{A}: {SLIM}, {B}: {{"dtype": "F32", "data_offsets": [256, 512]}}}}',
}  # fmt: skip


def test_the_headers_below_are_sound_but_for_their_fault(tmp_path: Path) -> None:
    path = tmp_path / "ink.safetensors"
    path.write_bytes(raw(f"{{{A}: {SLIM}, {B}: {WIDE}}}", bytes(512)))
    assert formats.read(path).updates[TO_Q].rank == 1


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_header_with_a_fault(tmp_path: Path, header: str) -> None:
    path = tmp_path / "ink.safetensors"
    path.write_bytes(raw(header, bytes(512)))
    assert "is truncated or not a safetensors file" in refused(path)


def test_a_name_that_stands_twice_is_named(tmp_path: Path) -> None:
    """Safetensors itself takes the last one, in silence."""
    path = tmp_path / "ink.safetensors"
    path.write_bytes(raw(HEADERS["a name twice"], bytes(512)))
    with safe_open(path, framework="pt") as file:
        assert len(list(file.keys())) == 2
    assert f"the name {TO_Q + '.lora_B.weight'!r} stands twice" in refused(path)


def test_settings_that_are_no_text(tmp_path: Path) -> None:
    files.write(tmp_path / "adapter_model.safetensors", files.tensors(files.make()))
    (tmp_path / "adapter_config.json").write_bytes(b"\xff\xfe\xfa")
    assert f"cannot read {tmp_path / 'adapter_config.json'}" in refused(tmp_path)


# ---- pickles ----------------------------------------------------------------------------------


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.write_text, (self.marker, "run")


def zipped(trap: Trap, path: Path) -> None:
    torch.save({"trap": trap, f"{TO_Q}.lora_A.weight": torch.ones(4, 64)}, path)


def legacy(trap: Trap, path: Path) -> None:
    torch.save({"trap": trap}, path, _use_new_zipfile_serialization=False)


def bare(trap: Trap, path: Path) -> None:
    path.write_bytes(pickle.dumps(trap, protocol=2))


def disguised(trap: Trap, path: Path) -> None:
    """It begins with a string that is dropped; its first eight bytes are a header's length."""
    start = b"\x80\x02U\x05\0\0\0\0\0" + b"0"
    path.write_bytes(start + pickle.dumps(trap, protocol=2)[2:])


def load(path: Path) -> None:
    content = path.read_bytes()
    try:
        torch.load(io.BytesIO(content), weights_only=False)
    except (pickle.UnpicklingError, RuntimeError):  # not PyTorch's own
        pickle.loads(content)


@pytest.mark.parametrize("save", [zipped, legacy, bare, disguised])
@pytest.mark.parametrize("name", ["ink.safetensors", "ink.pt", "adapter_model.safetensors"])
def test_a_pickle_is_not_run(tmp_path: Path, save: Any, name: str) -> None:
    path, marker = tmp_path / name, tmp_path / "marker"
    save(Trap(marker), path)
    load(path)
    assert marker.read_text() == "run"  # so it would be
    marker.unlink()
    message = refused(path)
    if save is not disguised:
        assert "can run code when it is opened; convert it to safetensors where you" in message
    assert not marker.exists()


# ---- writing ----------------------------------------------------------------------------------


def test_serialised_tensors_are_read_as_they_were(tmp_path: Path) -> None:
    named, metadata = files.tensors(files.make()), {"title": "墨", "a": "1", "format": "pt"}
    path = tmp_path / "ink.safetensors"
    path.write_bytes(safe.serialise(named, metadata))
    tensors, found = safe.read_tensors(path)
    assert found == metadata
    assert all(torch.equal(tensors[name], named[name]) for name in named)
    shuffled = dict(reversed(metadata.items()))
    assert safe.serialise(named, shuffled) == path.read_bytes()
