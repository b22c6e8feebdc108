"""How much memory the weights take, said before any of them is read."""

import os

import torch
from torch import nn

from danqing.errors import ModelError


def weight_bytes(network: nn.Module, dtype: torch.dtype) -> int:
    return sum(p.numel() for p in network.parameters()) * dtype.itemsize


def check(networks: dict[str, nn.Module], device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a model that cannot fit, with what would help."""
    sizes = {name: weight_bytes(network, dtype) for name, network in networks.items()}
    free = free_memory(device)
    if free is not None and sum(sizes.values()) > free:
        parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in sizes.items())
        half = "" if dtype.itemsize == 2 else "--dtype bfloat16 halves them, or use "
        raise ModelError(
            f"the weights take {gigabytes(sum(sizes.values()))} in {str(dtype)[6:]} ({parts}), "
            f"{device.type} has {gigabytes(free)} free; {half}a device with more memory"
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu" and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return available_pages() * os.sysconf("SC_PAGE_SIZE")
    return None


def available_pages() -> int:
    """Free pages and what the page cache would give back."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024 // os.sysconf("SC_PAGE_SIZE")
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES")


def gigabytes(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB" if size >= 1024**3 else f"{size / 1024**2:.0f} MiB"
