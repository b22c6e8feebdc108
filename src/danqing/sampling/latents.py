"""Between latents and the transformer's patches: 2 x 2 latents make one token."""

from einops import rearrange
from torch import Tensor

PATCH = 2  # the pipeline's, whatever the transformer's configuration says


def pack(latent_CYX: Tensor) -> Tensor:
    """[C, Y, X] to patches [Y/2 X/2, 4 C], channel order c, dy, dx."""
    return rearrange(latent_CYX, "C (Y dy) (X dx) -> (Y X) (C dy dx)", dy=PATCH, dx=PATCH)


def unpack(patches_TC: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse; ``rows`` and ``columns`` count patches."""
    pattern = "(Y X) (C dy dx) -> C (Y dy) (X dx)"
    return rearrange(patches_TC, pattern, Y=rows, X=columns, dy=PATCH, dx=PATCH)
