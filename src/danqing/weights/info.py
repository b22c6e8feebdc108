"""What is inside a model folder, without reading its weights."""

from dataclasses import dataclass
from pathlib import Path

import torch

from danqing.weights import plan
from danqing.weights.fingerprint import fingerprint
from danqing.weights.hub import find
from danqing.weights.model import Defaults, build, check_parts, read_defaults


@dataclass(frozen=True)
class ComponentInfo:
    """One network: its parameters, and bytes on the disk and in memory by dtype."""

    name: str
    kind: str
    parameters: int
    bytes_on_disk: int
    bytes_in_memory: dict[str, int]


@dataclass(frozen=True)
class ModelInfo:
    id: str
    folder: Path
    fingerprint: str
    defaults: Defaults
    components: list[ComponentInfo]


def describe(model: str) -> ModelInfo:
    """Sizes of a model; ``model`` is a name that ``danqing.load`` takes."""
    folder = find(model)
    check_parts(folder)
    components = [
        ComponentInfo(
            name=name,
            kind=type(network).__name__,
            parameters=sum(p.numel() for p in network.parameters()),
            bytes_on_disk=sum(p.stat().st_size for p in (folder / name).glob("*.safetensors")),
            bytes_in_memory={
                str(dtype)[6:]: plan.weight_bytes(network, dtype)
                for dtype in (torch.float32, torch.bfloat16)
            },
        )
        for name, network in build(folder).items()
    ]
    return ModelInfo(
        id=model,
        folder=folder,
        fingerprint=fingerprint(folder),
        defaults=read_defaults(folder),
        components=components,
    )
