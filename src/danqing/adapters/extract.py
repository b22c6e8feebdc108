"""The difference of two models as an adapter of a given rank."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from danqing.adapters import svd
from danqing.adapters.adapter import Adapter, Update
from danqing.adapters.targets import layer_of, published
from danqing.adapters.write import cast, check_target, write
from danqing.errors import AdapterError
from danqing.weights.files import TensorFiles, dtype_named
from danqing.weights.fingerprint import fingerprint
from danqing.weights.hub import find
from danqing.weights.model import STEMS

SMALLEST = 1e-12  # of a weight's energy: what is below it is the same weight


@dataclass(frozen=True)
class Extracted:
    """The adapter, the share of the difference's energy that it keeps, by layer and in all."""

    adapter: Adapter
    energy: Mapping[str, float]
    total: float


def extract(
    base: str,
    changed: str,
    target: Path,
    *,
    rank: int,
    naming: str = "diffusers",
    dtype: str | None = None,
    overwrite: bool = False,
) -> Extracted:
    """Write the adapter that makes ``changed`` of ``base``, as nearly as its rank allows.

    Both are names that ``danqing.load`` takes. Differences of biases and norms are kept whole.

    Raises:
        AdapterError: the models differ in their layers, or in nothing at all.
    """
    check_target(target, naming, dtype, overwrite=overwrite)
    if rank < 1:
        raise AdapterError(f"rank {rank} must be a whole number from 1 upwards")
    first, second = find(base), find(changed)
    kept: dict[str, float] = {}
    energies: dict[str, float] = {}
    updates: dict[str, Update] = {}
    for name, difference in differences(first, second):
        layer = layer_of(name)
        if published(layer) is None:
            raise AdapterError(f"{name} differs between the models, and no adapter can change it")
        parts = dict(updates[layer].parts) if layer in updates else {}
        if name.endswith(".bias"):
            parts["bias"] = difference
        elif difference.ndim == 1:
            parts["diff"] = difference
        else:
            energies[layer] = float(difference.square().sum())
            parts["down"], parts["up"], kept[layer] = svd.nearest(difference, rank)
        updates[layer] = Update(parts, float(len(parts["down"])) if "down" in parts else None)
    if not updates:
        raise AdapterError(f"{base} and {changed} have the same transformer: nothing to extract")
    adapter = Adapter(updates, base={"id": base, "fingerprint": fingerprint(first)})
    if dtype:
        adapter = cast(adapter, dtype_named(dtype))
    write(adapter, target, naming, overwrite=overwrite)
    whole = sum(energies.values())
    total = sum(kept[layer] * energies[layer] for layer in kept) / whole if whole else 1.0
    return Extracted(adapter, kept, total)


def differences(first: Path, second: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that differs, as a float32 difference."""
    stem = STEMS["transformer"]
    with (
        TensorFiles(first / "transformer", stem) as before,
        TensorFiles(second / "transformer", stem) as after,
    ):
        apart = sorted(set(before.home) ^ set(after.home))
        if apart:
            raise AdapterError(
                f"{first} and {second} differ in their layers ({apart[0]}); "
                "extract needs two versions of one model"
            )
        for name in sorted(before.home):
            old, new = before.read(name).float(), after.read(name).float()
            if old.shape != new.shape:
                raise AdapterError(
                    f"{name} is {list(old.shape)} in {first} and {list(new.shape)} in {second}; "
                    "extract needs two versions of one model"
                )
            difference = new - old
            if float(difference.square().sum()) > SMALLEST * float(old.square().sum()):
                yield name, difference
