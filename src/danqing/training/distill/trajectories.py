"""The teacher's own way from noise to picture, step by step, kept on the disk.

A trajectory is what the guided teacher does for one prompt, one noise and one size: the states at
every noise level of its schedule. They are made once, in shards; a run that was stopped goes on
with the first shard that is missing.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from danqing.adapters.safe import serialise
from danqing.errors import TrainingError
from danqing.sampling import flow, latents, noise
from danqing.training.distill.roles import TEACHER, Query, Roles
from danqing.weights.files import write_whole

SHARD = 16  # trajectories
IN_MEMORY = 2**30  # bytes of states; the rest is read again
KEPT = torch.float16  # of the states; bfloat16 would cost a hundredth of a velocity


@dataclass(frozen=True)
class Wish:
    """What a trajectory is made of; ``size`` in pixels, width and height."""

    prompt: str
    seed: int
    size: tuple[int, int]


@dataclass(frozen=True)
class Teacher:
    """How the teacher goes: its falling noise levels, closed by 0, for every size; its guidance."""

    sigmas: tuple[float, ...]
    guidance: float
    unit: int  # pixels of a patch's side


class Trajectories:
    """The states [nodes, P, C] of every wish, float32 when read.

    Args:
        folder: of the shards.
        wishes: in the order in which they are numbered.
        teacher: how it goes.
        identity: of everything else that they depend on: the model, the precision.
        kept: places in the teacher's schedule whose states are stored; all by default.
        shown: those of them that are given; all by default.
    """

    def __init__(
        self,
        folder: Path,
        wishes: Sequence[Wish],
        teacher: Teacher,
        identity: str,
        kept: Sequence[int] | None = None,
        shown: Sequence[int] | None = None,
    ) -> None:
        self.folder, self.wishes, self.teacher = folder, list(wishes), teacher
        self.kept = list(range(len(teacher.sigmas)) if kept is None else kept)
        self.shown = [self.kept.index(place) for place in (self.kept if shown is None else shown)]
        self.identity = identity
        self._shards: OrderedDict[int, list[Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.wishes)

    def __getitem__(self, number: int) -> Tensor:
        shard, place = divmod(number, SHARD)
        if shard not in self._shards:
            self._shards[shard] = self._read(shard)
        self._shards.move_to_end(shard)
        while len(self._shards) > 1 and self._bytes() > IN_MEMORY:
            self._shards.popitem(last=False)  # the one not used for longest
        return self._shards[shard][place]

    def make(self, roles: Roles, texts: "Texts", batch: int) -> Iterator[tuple[int, int]]:
        """Compute the shards that are missing; yields (done, total) trajectories."""
        for shard in range(-(-len(self.wishes) // SHARD)):
            if not self._path(shard, self.kept).exists():
                self._write(shard, [s[self.kept] for s in self._states(shard, roles, texts, batch)])
            yield min(len(self.wishes), (shard + 1) * SHARD), len(self.wishes)

    def _states(self, shard: int, roles: Roles, texts: "Texts", batch: int) -> list[Tensor]:
        """All of the shard's states: from a shard that keeps them all, or from the teacher."""
        every = list(range(len(self.teacher.sigmas)))
        if self._path(shard, every).exists():
            return list(read(self._path(shard, every)))
        own = self.wishes[shard * SHARD : (shard + 1) * SHARD]
        found: list[Tensor] = []
        for start in range(0, len(own), batch):
            found += travel(roles, own[start : start + batch], texts, self.teacher)
        return found

    def _bytes(self) -> int:
        return sum(states.nbytes for shard in self._shards.values() for states in shard)

    # ---- files --------------------------------------------------------------------------------

    def _path(self, shard: int, kept: Sequence[int]) -> Path:
        own = self.wishes[shard * SHARD : (shard + 1) * SHARD]
        told = [[wish.prompt, wish.seed, wish.size] for wish in own]
        way = [self.teacher.sigmas, self.teacher.guidance, list(kept)]
        whole = [told, way, self.identity]
        digest = hashlib.sha256(json.dumps(whole, ensure_ascii=False).encode()).hexdigest()
        return self.folder / f"{shard:05d}-{digest[:16]}.safetensors"

    def _write(self, shard: int, states: Sequence[Tensor]) -> None:
        if not all(bool(torch.isfinite(s.to(KEPT)).all()) for s in states):
            raise TrainingError(
                f"the teacher's states of trajectories {shard * SHARD} to "
                f"{shard * SHARD + len(states) - 1} are not finite; give --dtype float32, or a "
                "lower --guidance or adapter strength"
            )
        tensors = {f"{i:02d}": s.to(KEPT).contiguous() for i, s in enumerate(states)}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._path(shard, self.kept), serialise(tensors, {}))

    def _read(self, shard: int) -> list[Tensor]:
        return [states[self.shown].float() for states in read(self._path(shard, self.kept))]


def read(path: Path) -> Iterator[Tensor]:
    """The states of a shard, trajectory by trajectory, as they were stored."""
    try:
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                yield file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{path} is damaged ({error}); delete it, and go on") from error


@dataclass(frozen=True)
class Texts:
    """Text features [L, J] by prompt; ``blank`` is the negative prompt's."""

    of: Callable[[str], Tensor]
    blank: Tensor

    def unprompted(self, query: Query) -> Query:
        """The same question with the negative prompt."""
        return replace(query, text=self.blank)


@torch.no_grad()
def travel(roles: Roles, wishes: Sequence[Wish], texts: Texts, teacher: Teacher) -> list[Tensor]:
    """The guided teacher's states of each wish, [nodes, P, C] float32; all in one pack."""
    channels = roles.network.config.out_channels
    states = [start(wish, teacher.unit, channels) for wish in wishes]
    ways = [[state] for state in states]
    for sigma, after in pairwise(teacher.sigmas):
        queries = [
            query(TEACHER, state, sigma, wish, texts, teacher.unit)
            for state, wish in zip(states, wishes, strict=True)
        ]
        guided, _ = roles.guided(queries, texts.blank, teacher.guidance)
        states = [
            flow.euler(state, velocity.cpu(), sigma, after)
            for state, velocity in zip(states, guided, strict=True)
        ]
        for way, state in zip(ways, states, strict=True):
            way.append(state)
    return [torch.stack(way) for way in ways]


def start(wish: Wish, unit: int, channels: int) -> Tensor:
    """The noise that the pipeline begins with for this seed, as patches [P, C]."""
    width, height = (latents.PATCH * pixels // unit for pixels in wish.size)
    return latents.pack(noise.draw(wish.seed, (channels, height, width)))


def query(
    role: str | None, state: Tensor, sigma: float, wish: Wish, texts: Texts, unit: int
) -> Query:
    width, height = wish.size
    return Query(role, state, sigma, texts.of(wish.prompt), height // unit, width // unit)
