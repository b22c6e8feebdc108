"""Published adapters: names, files, sampling. No test here reaches the network."""

import math
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from danqing.adapters import published
from danqing.adapters.published import LIGHTNING, SHORT_NAMES, HubFile, known_sampling, on_hub
from danqing.errors import AdapterError
from danqing.sampling.schedule import ScheduleConfig, check_sigmas, schedule

FILE = "Qwen-Image-Lightning-4steps-V2.0-bf16.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache is an empty folder, and the hub is offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(cache: Path, repository: str, file: str) -> Path:
    """As if it had been fetched."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    path = folder / "snapshots" / ("a" * 40) / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    return path


# ---- sampling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [4, 8])
@pytest.mark.parametrize("patches", [16, 4096])
def test_lightning_is_the_schedule_with_the_constant_shift_three(steps: int, patches: int) -> None:
    shift = math.log(3)
    config = ScheduleConfig(base_shift=shift, max_shift=shift, shift_terminal=None)
    sampling = LIGHTNING[steps]
    assert sampling.sigmas == pytest.approx(schedule(steps, patches, config), rel=1e-6)
    assert (sampling.steps, sampling.guidance) == (steps, 1.0)
    assert check_sigmas(sampling.sigmas or ()) == list(sampling.sigmas or ())


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("Qwen-Image-Lightning-4steps-V1.0.safetensors", 4),
        ("Qwen-Image-Lightning-4steps-V1.0-bf16.safetensors", 4),
        ("Qwen-Image-Lightning-8steps-V1.1.safetensors", 8),
        ("Qwen-Image-Lightning-8steps-V2.0-bf16.safetensors", 8),
        ("Qwen-Image-2512-Lightning-4steps-V1.0-fp32.safetensors", 4),
        *((found.file, int(name[-1])) for name, found in SHORT_NAMES.items()),
    ],
)
def test_published_files_are_known_by_their_names(tmp_path: Path, name: str, steps: int) -> None:
    assert known_sampling(tmp_path / name) == LIGHTNING[steps]


@pytest.mark.parametrize(
    "name",
    [
        "ink.safetensors",
        "my-Qwen-Image-Lightning-4steps-V1.0.safetensors",
        "Qwen-Image-Lightning-4steps-V1.0-mine.safetensors",
        "Qwen-Image-Lightning-6steps-V1.0.safetensors",
        "Qwen-Image-Edit-Lightning-4steps-V1.0.safetensors",
        "adapter_model.safetensors",
    ],
)
def test_other_files_are_not(name: str) -> None:
    assert known_sampling(Path(name)) is None


# ---- names ------------------------------------------------------------------------------------


def test_names_of_files_on_the_hub() -> None:
    assert on_hub("lightning-4") == HubFile("lightx2v/Qwen-Image-Lightning", FILE)
    assert on_hub("a/b/c.safetensors") == HubFile("a/b", "c.safetensors")
    assert on_hub("a/b/c/d-1.0.safetensors") == HubFile("a/b", "c/d-1.0.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "lightning-5",
        "a/b.safetensors",
        "a/b/c.bin",
        "./a/b/c.safetensors",
        "../a/b/c.safetensors",
        "/a/b/c.safetensors",
        "a/b/c.safetensors\n",
        "a b/c/d.safetensors",
    ],
)
def test_names_that_are_none(name: str) -> None:
    assert on_hub(name) is None
    with pytest.raises(AdapterError, match="is not known; give lightning-4, lightning-8 or owner/"):
        published.fetch(name)


@pytest.mark.parametrize("name", ["lightning-4", "lightning-8", "a/b/c.safetensors"])
def test_what_was_not_fetched_says_how_to_fetch_it(name: str) -> None:
    with pytest.raises(AdapterError) as caught:
        published.find(name)
    assert str(caught.value) == (
        f"adapter {name!r} is not in the cache; fetch it with: danqing adapter fetch {name}"
    )


def test_what_was_fetched_is_found(cache: Path) -> None:
    path = put(cache, "lightx2v/Qwen-Image-Lightning", FILE)
    assert published.find("lightning-4") == path
    assert published.find(f"lightx2v/Qwen-Image-Lightning/{FILE}") == path


def test_a_file_is_found_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("a/b/c.safetensors")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert published.find(str(path)) == path


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ink.safetensors").write_bytes(b"x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert published.find("~/ink.safetensors") == tmp_path / "ink.safetensors"


@pytest.mark.parametrize(
    "name",
    ["ink", "x\0y", "~no-such-user/ink.safetensors", "x" * 5000, "/nowhere/ink"],
    ids=lambda name: name[:20],
)
def test_what_is_nowhere_is_told_what_there_is(name: str) -> None:
    with pytest.raises(AdapterError, match="is neither a file nor one of mine, lightning-4, light"):
        published.find(name, also=["mine"])


# ---- fetching ---------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the hub's client was asked for; it has everything."""
    calls: list[Any] = []

    def download(repository: str, file: str, *, local_files_only: bool) -> str:
        calls.append((repository, file, local_files_only))
        return f"/cache/{file}"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return calls


def test_finding_never_downloads(asked: list[Any]) -> None:
    assert published.find("lightning-4") == Path("/cache") / FILE
    assert asked == [("lightx2v/Qwen-Image-Lightning", FILE, True)]


def test_fetching_does(asked: list[Any]) -> None:
    assert published.fetch("a/b/c.safetensors") == Path("/cache/c.safetensors")
    assert asked == [("a/b", "c.safetensors", False)]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("no route to host\nat all"), "no route to host; check name and network"),
        (LocalEntryNotFoundError("offline"), "offline; check name and network"),
        (RuntimeError(), "RuntimeError; check name and network"),
    ],
)
def test_a_download_that_fails(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(AdapterError) as caught:
        published.fetch("lightning-8")
    assert str(caught.value) == f"adapter 'lightning-8': {said}"


def test_an_id_that_the_hub_does_not_allow() -> None:
    with pytest.raises(AdapterError, match=r"'a--b/c\.\.d' is not a hub id; write owner/name"):
        published.fetch("a--b/c..d/e.safetensors")
