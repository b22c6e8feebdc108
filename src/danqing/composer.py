"""Which pictures ride in one pack. Decides and computes nothing; no torch."""

from collections.abc import Sequence

# Beyond this a pack gains nothing, since the matrices fill the machine, and its first picture is
# only finished with its last.
MAX_PATCHES = 1024


def compose(patches: Sequence[int], *, together: bool) -> list[list[int]]:
    """Places of the pictures of each pack, in the order asked.

    Args:
        patches: tokens that each picture brings, its unconditional branch included.
        together: whether pictures may share a pack.
    """
    packs: list[list[int]] = []
    filled = 0
    for place, count in enumerate(patches):
        if packs and together and filled + count <= MAX_PATCHES:
            packs[-1].append(place)
            filled += count
        else:
            packs.append([place])
            filled = count
    return packs
