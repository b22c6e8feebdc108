"""Three roles over one frozen network: the teacher without an adapter, student and fake score with
one each. Whatever is asked of them at once rides in one pack; nobody has a copy of the base."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor, nn

from danqing.adapters.adapter import Adapter
from danqing.adapters.inject import on_table
from danqing.adapters.targets import targets
from danqing.errors import TrainingError
from danqing.models.layout import Layout, Segment
from danqing.models.transformer import Transformer
from danqing.sampling.guidance import guide
from danqing.training.settings import chosen_layers
from danqing.training.trainable import Shape, Trainables

TEACHER, STUDENT, FAKE = None, "student", "fake"


@dataclass(frozen=True)
class Query:
    """What is asked of a role: the velocity of packed patches ``state`` [P, C] of ``rows`` x
    ``columns`` at noise level ``sigma``, given text features [L, J]."""

    role: str | None
    state: Tensor
    sigma: float
    text: Tensor
    rows: int
    columns: int

    @property
    def segment(self) -> Segment:
        return Segment(self.rows, self.columns, self.text.shape[0])


class Roles:
    """The network with its adapters in training.

    Args:
        network: becomes frozen.
        layers: published names or groups of the layers that both adapters change.
        student, fake: their shapes.
        seed: of their first matrices.
    """

    def __init__(
        self, network: Transformer, layers: Sequence[str], student: Shape, fake: Shape, seed: int
    ) -> None:
        self.network = network.requires_grad_(False)
        self.trainables = Trainables(network)
        known = targets(network)
        names = chosen_layers(layers, known)
        for number, (role, shape) in enumerate(((STUDENT, student), (FAKE, fake))):
            self.trainables.add(role, names, shape, seed + number)
        # The modulation table is one for a pack: roles that change it cannot share one.
        self._apart = any(on_table(known[name].ours) for name in names)

    def ask(self, queries: Sequence[Query]) -> list[Tensor]:
        """The velocity of each query, float32 [P, C]; all in one pack."""
        order = sorted(range(len(queries)), key=lambda i: place(queries[i]))
        found: list[Tensor] = [queries[0].state] * len(queries)
        for _, pack in groupby(order, key=lambda i: self._apart and (queries[i].role or "")):
            own = list(pack)
            for i, velocity in zip(own, self._ask([queries[i] for i in own]), strict=True):
                found[i] = velocity
        return found

    def _ask(self, asked: Sequence[Query]) -> list[Tensor]:
        weight = self.network.img_in.weight
        levels = sorted({query.sigma for query in asked}, reverse=True)
        sigmas = torch.tensor(levels, dtype=torch.float32, device=weight.device)
        rows = [levels.index(query.sigma) for query in asked]
        patches = torch.cat([query.state for query in asked]).to(weight.device, weight.dtype)
        text = torch.cat([query.text for query in asked]).to(weight.device, weight.dtype)
        layout = Layout(tuple(query.segment for query in asked))
        with self.trainables.ride(layout, [query.role for query in asked]):
            out = self.network(patches, text, layout, self.network.modulation(sigmas), rows)
        return list(out.float().split(layout.patch_lengths))

    def guided(
        self, queries: Sequence[Query], blank: Tensor, scale: float
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The teacher's velocities with guidance, and without; the negative prompt is ``blank``."""
        others = [replace(query, text=blank) for query in queries]
        answers = self.ask([*queries, *others])
        plain, blanks = answers[: len(queries)], answers[len(queries) :]
        return [guide(c, b, scale) for c, b in zip(plain, blanks, strict=True)], plain

    def parameters(self, role: str) -> dict[str, nn.Parameter]:
        return self.trainables.parameters(role)

    def adapter(self, role: str) -> Adapter:
        return self.trainables.adapter(role)

    def start_from(self, adapter: Adapter) -> None:
        """The student as this adapter, which must be of the same kind, layers and rank.

        Raises:
            TrainingError: it was not.
        """
        pairs = self.trainables.pairs(STUDENT)
        missing = sorted(set(pairs) ^ set(adapter.updates))
        if missing:
            raise TrainingError(
                f"the adapter to start from differs in its layers, {missing[0]} among them; "
                "give the same --set targets=... as it was made with"
            )
        for layer, pair in pairs.items():
            update = adapter.updates[layer]
            if extra := sorted(set(update.parts) - {"down", "up"}):
                raise TrainingError(
                    f"the adapter to start from has a {extra[0]} at {layer}, and a student has "
                    "none; give a plain LoRA"
                )
            if update.kind != "lora" or update.parts["down"].shape != pair.down.shape:
                raise TrainingError(
                    f"the adapter to start from has another kind or rank at {layer}: "
                    f"{list(update.parts.get('down', torch.empty(0)).shape)}, here "
                    f"{list(pair.down.shape)}; give its rank with --rank"
                )
            with torch.no_grad():
                pair.down.copy_(update.parts["down"])
                pair.up.copy_(update.parts["up"] * (update.scale / pair.scale))


def place(query: Query) -> tuple[str, int, int]:
    """Roles side by side, and in each of them equal shapes: fewer, larger products."""
    return query.role or "", len(query.state), query.text.shape[0]
