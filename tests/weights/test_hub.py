"""No test here reaches the network: the hub's cache is an empty folder, and the hub is offline."""

from importlib import resources
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from danqing.errors import ModelError
from danqing.weights import hub
from danqing.weights.hub import fetch, find


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_folder_is_itself(tiny_model: Path) -> None:
    assert find(str(tiny_model)) == tiny_model


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find("~/model") == tmp_path / "model"


@pytest.mark.parametrize(
    "name",
    [
        *("maxi", "a/b/c", "./owner/name", "/nowhere", "x\0y"),
        "~no-such-user/x",
    ],
)
def test_an_unknown_name_is_told_what_there_is(name: str) -> None:
    with pytest.raises(ModelError, match="is neither 'mini', nor a folder, nor a hub id"):
        find(name)


@pytest.mark.parametrize("name", ["owner/name", "Qwen/Qwen-Image", "a-/b", "a--b/c..d"])
def test_a_hub_id_that_was_not_fetched(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name}'.*(danqing model fetch {name}|not a hub id)"):
        find(name)


def test_a_hub_id_that_was_fetched(cache: Path) -> None:
    repository = cache / "models--owner--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    assert find("owner/name") == snapshot


def test_fetching_offline_is_an_error_of_one_line() -> None:
    with pytest.raises(ModelError, match=r"owner/name.*check name and network") as caught:
        fetch("owner/name")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no-owner/", "a/b/c", "-x/y z"])
def test_fetching_what_is_no_hub_id(name: str) -> None:
    with pytest.raises(ModelError, match=r"is not a hub id; write owner/name"):
        fetch(name)


def test_only_settings_and_weights_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return "/somewhere"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert fetch("owner/name") == Path("/somewhere")
    assert asked["local_files_only"] is False
    assert not any(p.endswith((".py", ".bin", ".pt", ".pkl", "*")) for p in asked["allow_patterns"])


def test_a_broken_connection_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **options: object) -> str:
        raise LocalEntryNotFoundError("no connection\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match=r"owner/name': no connection; check name and network$"):
        fetch("owner/name")


def test_a_package_without_its_model_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(ModelError, match="came without its model 'mini'; install it again"):
        hub.find("mini")
