"""`danqing model`: what it prints, and what it asks of the weights room."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from danqing.errors import ModelError


@dataclass
class Part:
    name: str
    kind: str
    parameters: int
    bytes_on_disk: int
    bytes_in_memory: dict[str, int]


@dataclass
class Defaults:
    size: tuple[int, int] = (128, 128)
    steps: int = 30
    guidance: float = 4.0
    adapter: str | None = None


@dataclass
class Info:
    id: str
    folder: Path
    fingerprint: str
    defaults: Defaults
    components: list[Part]


PARTS = [
    Part("text_encoder", "TextEncoder", 7_000_000, 14_000_000, {"float32": 28_000_000}),
    Part("transformer", "Transformer", 20_430_000_000, 40_860_000_000, {"float32": 81_720_000_000}),
]
INFO = Info("mini", Path("some/folder"), "0123456789abcdef", Defaults(), PARTS)


@pytest.fixture
def weights(monkeypatch):
    """Stand-ins for the modules of the weights room; calls are kept in ``.calls``."""
    calls = []

    def put(name, **functions):
        module = ModuleType(f"danqing.weights.{name}")
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def describe(model):
        if model != "mini":
            raise ModelError(f"model {model!r} is not known; try mini")
        return INFO

    put("info", describe=describe)
    put("export", export=lambda *arguments: calls.append(arguments))
    put("hub", fetch=lambda hub_id: Path("cache") / hub_id)
    return SimpleNamespace(calls=calls)


@pytest.mark.usefixtures("weights")
def test_info_is_a_table_with_sums(run):
    done = run("model", "info", "mini")
    assert (done.code, done.err) == (0, "")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "default size 128x128" in lines
    assert "component class parameters on disk in float32" in lines
    assert "text_encoder TextEncoder 7.00 M 13.4 MiB 26.7 MiB" in lines
    assert "transformer Transformer 20.43 G 38.1 GiB 76.1 GiB" in lines
    assert "total 20.44 G 38.1 GiB 76.1 GiB" in lines


@pytest.mark.usefixtures("weights")
def test_info_as_json(run):
    found = json.loads(run("model", "info", "mini", "--json").out)
    assert found["folder"] == str(INFO.folder)
    assert found["components"][0]["parameters"] == 7_000_000


@pytest.mark.usefixtures("weights")
def test_an_unknown_model_is_a_mistake(refused):
    assert "model 'nope' is not known" in refused("model", "info", "nope")


def test_export_prints_the_folder(run, weights):
    done = run("model", "export", "mini", "copy", "--dtype", "float32")
    assert (done.code, done.out) == (0, "copy\n")
    assert weights.calls == [("mini", Path("copy"), "float32")]


@pytest.mark.usefixtures("weights")
def test_fetch_prints_the_folder(run):
    assert run("model", "fetch", "Qwen/Qwen-Image").out == "cache/Qwen/Qwen-Image\n"
