"""Folded into a network in memory is the same as merged into its files."""

from pathlib import Path

import pytest
import torch

import danqing
from danqing.adapters.fold import fold
from danqing.adapters.merge import merge
from danqing.adapters.targets import targets
from danqing.adapters.write import write
from tests.adapters import make


@pytest.mark.parametrize("kind", [kind for kind in make.KINDS if kind != "with_up_bias"])
def test_folded_is_merged(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    adapter, path = make.adapter(kind), tmp_path / "a.safetensors"
    write(adapter, path, "comfyui")
    merge(str(tiny_model), [(str(path), 0.7)], tmp_path / "model")
    merged = danqing.load(str(tmp_path / "model"), device="cpu").model.transformer
    network = danqing.load(str(tiny_model), device="cpu").model.transformer
    fold(network, [(adapter, 0.7)], targets(network))
    for (name, ours), (_, theirs) in zip(
        network.named_parameters(), merged.named_parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6, msg=name)


def test_several_are_folded_as_they_are_injected(tiny_model: Path, tmp_path: Path) -> None:
    """A second one's norms are those of the weights as they were, not of the first one's."""
    own = {str(tmp_path / f"{kind}.safetensors"): kind for kind in ("dora", "lora")}
    for path, kind in own.items():
        write(make.adapter(kind), Path(path), "comfyui")
    pipe = danqing.load(str(tiny_model), device="cpu")
    encoded, noise = pipe.encode(["a fox"]), [pipe.noise(0, (64, 64))]
    how = {"sigmas": [1.0, 0.7, 0.3, 0.0]}
    injected = pipe.denoise(encoded, noise, adapters=[dict.fromkeys(own, 0.7)], **how)[0]
    network = pipe.model.transformer
    fold(network, [(make.adapter(kind), 0.7) for kind in own.values()], targets(network))
    folded = pipe.denoise(encoded, noise, **how)[0]
    torch.testing.assert_close(folded, injected, atol=1e-4, rtol=1e-4)
