import pytest
import torch

from danqing import numerics
from danqing.numerics import profile, rows_are_independent
from danqing.version import __version__
from tests import tiny

CPU = torch.device("cpu")


def test_the_profile_names_what_decides_the_bits() -> None:
    found = profile(CPU, torch.bfloat16, packing="exact")
    assert found["danqing"] == __version__
    assert found["torch"] == torch.__version__
    assert (found["device"], found["dtype"], found["packing"]) == ("cpu", "bfloat16", "exact")
    assert found["processor"].endswith(torch.backends.cpu.get_cpu_capability())


@pytest.mark.usefixtures("threads")
def test_the_profile_does_not_depend_on_the_threads() -> None:
    torch.set_num_threads(1)
    one = profile(CPU, torch.float32, packing="exact")
    torch.set_num_threads(3)
    assert profile(CPU, torch.float32, packing="exact") == one


def test_the_id_changes_with_any_part(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [
        profile(CPU, torch.float32, packing="exact")["id"],
        profile(CPU, torch.float16, packing="exact")["id"],
        profile(CPU, torch.float32, packing="throughput")["id"],
    ]
    monkeypatch.setattr(numerics, "vendor", lambda: "another make")
    ids.append(profile(CPU, torch.float32, packing="exact")["id"])
    assert [len(i) for i in ids] == [12] * 4
    assert len(set(ids)) == 4


def test_the_make_of_the_processor_is_known_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> str:
        raise OSError

    monkeypatch.setattr(numerics.Path, "read_text", refuse)
    assert numerics.vendor() == numerics.platform.system()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_independent_here(dtype: torch.dtype) -> None:
    assert rows_are_independent(tiny.draw(192, 64, dtype=dtype))


def test_dependent_rows_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that sums in another order for small matrices, as matrix libraries do."""

    def product(x: torch.Tensor, weight: torch.Tensor, bias: None) -> torch.Tensor:
        half = x.shape[1] // 2
        if x.shape[0] >= 100:
            return x @ weight.T
        return x[:, :half] @ weight[:, :half].T + x[:, half:] @ weight[:, half:].T

    monkeypatch.setattr(numerics, "linear", product)
    assert not rows_are_independent(tiny.draw(192, 64))


def test_the_check_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    rows_are_independent(tiny.draw(64, 64))
    assert torch.equal(torch.random.get_rng_state(), before)
