"""Which pictures ride in one pack. Decides and computes nothing; no torch."""

from collections.abc import Mapping, Sequence

# Beyond this a pack gains nothing, since the matrices fill the machine, and its first picture is
# only finished with its last.
MAX_PATCHES = 1024


def compose(
    patches: Sequence[int],
    *,
    together: bool,
    loads: Sequence[Mapping[str, int]] | None = None,
    room: int = 0,
) -> list[list[int]]:
    """Places of the pictures of each pack, in the order asked.

    Args:
        patches: tokens that each picture brings, its unconditional branch included.
        together: whether pictures may share a pack.
        loads: bytes of the adapters that each picture needs, by what tells adapters apart.
        room: bytes of adapters that a pack may hold; one picture may need more.
    """
    packs: list[list[int]] = []
    filled = 0
    loaded: dict[str, int] = {}
    for place, count in enumerate(patches):
        load = dict(loads[place]) if loads else {}
        fits = filled + count <= MAX_PATCHES and sum((loaded | load).values()) <= room
        if packs and together and fits:
            packs[-1].append(place)
            filled += count
            loaded |= load
        else:
            packs.append([place])
            filled, loaded = count, load
    return packs
