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
    fold(network, adapter, 0.7, targets(network))
    for (name, ours), (_, theirs) in zip(
        network.named_parameters(), merged.named_parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6, msg=name)
