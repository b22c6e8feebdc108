"""The published 3-D VAE tensors as the 2-D ones of ``models/vae.py``, and back.

For one frame, zero padding in front of it meets all slices of a causal kernel but the last. Files
may hold that one alone (`flat`), which is a third of the size; diffusers needs them all.
"""

import torch
from torch import Tensor


def fold(tensor: Tensor) -> Tensor:
    """[O, I, t, h, w] to [O, I, h, w]; a gain [C, 1, 1, 1] to [C, 1, 1]."""
    if tensor.ndim == 5:
        return tensor[:, :, -1]
    if tensor.ndim == 4 and tensor.shape[1:] == (1, 1, 1):
        return tensor[:, 0]
    return tensor


def shape_in_file(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The published shape of one of our VAE parameters."""
    plane = ".resample." in name or ".attentions." in name or _flat_attention(name)
    if name.endswith("gamma"):
        return shape if plane else (*shape, 1)
    if len(shape) == 4 and not plane:
        depth = 3 if shape[-1] == 3 else 1
        return (*shape[:2], depth, *shape[2:])
    return shape


def shapes_in_files(name: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The published shape and the flat one."""
    published = shape_in_file(name, shape)
    if len(published) == 5:
        return published, (*shape[:2], 1, *shape[2:])
    return (published,)


def flat(name: str, tensor: Tensor) -> Tensor:
    return tensor.reshape(shapes_in_files(name, tuple(tensor.shape))[-1])


def unfold(name: str, tensor: Tensor) -> Tensor:
    """The published shape, with zeros where a single frame never looks."""
    shape = shape_in_file(name, tuple(tensor.shape))
    if len(shape) == 5:
        full = torch.zeros(shape, dtype=tensor.dtype)
        full[:, :, -1] = tensor
        return full
    return tensor.reshape(shape)


def _flat_attention(name: str) -> bool:
    # Attention between the down blocks (attn_scales) has no "attentions" in its name.
    parts = name.split(".")
    return "to_qkv" in parts or "proj" in parts or parts[-2:] == ["norm", "gamma"]
