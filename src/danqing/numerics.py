"""The numerics profile: everything besides the request that decides the bits of a picture."""

import hashlib
import json
import platform
from pathlib import Path

import torch
from torch import Tensor

from danqing.models.linear import linear
from danqing.version import __version__


def profile(device: torch.device, dtype: torch.dtype, *, packing: str) -> dict[str, str]:
    """Library versions, device class, dtype, kernels; ``id`` is a short hash of the rest.

    The number of threads is not part of it: it changes no bit.
    """
    parts = {
        "danqing": __version__,
        "torch": torch.__version__,
        "device": device.type,
        "processor": processor(device),
        "dtype": str(dtype).removeprefix("torch."),
        "quantisation": "none",
        "attention": "sdpa",
        "packing": packing,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return {**parts, "id": digest[:12]}


def processor(device: torch.device) -> str:
    """What chooses the kernels: the GPU, or the CPU's make and vector instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    vector = torch.backends.cpu.get_cpu_capability()
    return f"{vendor()} {platform.machine()} {vector}"


def vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.system()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")]
    return names[0] if names else platform.system()


@torch.no_grad()
def rows_are_independent(weight: Tensor) -> bool:
    """Whether a row times ``weight`` has the same bits in a small matrix as in a large one."""
    generator = torch.Generator().manual_seed(0)
    shape = (150, weight.shape[1])
    x = torch.randn(shape, generator=generator).to(weight.device, weight.dtype)
    whole = linear(x, weight, None)
    pieces = [linear(piece.clone(), weight, None) for piece in x.split([3, 16, 21, 47, 63])]
    return torch.equal(whole, torch.cat(pieces))
