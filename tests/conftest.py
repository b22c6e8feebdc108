"""What tests of several folders share: the tiny model, made once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import danqing
from tests import tiny


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that no test may change; ``tiny_copy`` is for those that do."""
    return tiny.write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_pipe(tiny_model: Path) -> danqing.Pipeline:
    """The tiny model, opened in float32; tests leave it as it is."""
    return danqing.load(str(tiny_model), device="cpu")


@pytest.fixture
def tiny_copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the model folder, to be damaged."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@pytest.fixture
def threads() -> Iterator[None]:
    """For tests that change the number of threads: it is put back afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2, 3, 5, 7], ids=lambda n: f"{n}-threads")
def any_threads(request: pytest.FixtureRequest, threads: None) -> None:
    """Runs the test on each of these numbers of threads."""
    torch.set_num_threads(request.param)


@pytest.fixture
def one_thread():
    """Networks this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
