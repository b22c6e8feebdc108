"""The student's own way: a few Euler steps between its nodes, without guidance."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from danqing.sampling import flow
from danqing.training.distill.roles import STUDENT, Roles
from danqing.training.distill.trajectories import Texts, Wish, query, start

Nodes = Sequence[float]  # falling noise levels, closed by 0


class Student:
    """The student of these roles at these nodes.

    Args:
        unit: pixels of a patch's side.
        places: of the nodes among the states of a stored trajectory; all of them by default.
    """

    def __init__(
        self,
        roles: Roles,
        nodes: Nodes,
        texts: Texts,
        unit: int,
        places: Sequence[int] | None = None,
    ) -> None:
        self.roles, self.nodes, self.texts, self.unit = roles, list(nodes), texts, unit
        self.places = list(range(len(self.nodes)) if places is None else places)

    @property
    def steps(self) -> int:
        return len(self.nodes) - 1

    def start(self, wish: Wish) -> Tensor:
        return start(wish, self.unit, self.roles.network.config.out_channels)

    def velocities(
        self, states: Sequence[Tensor], sigmas: Sequence[float], wishes: Sequence[Wish]
    ) -> list[Tensor]:
        """Of each state at its own noise level; with gradients, unless the caller forbids them."""
        triples = zip(states, sigmas, wishes, strict=True)
        return self.roles.ask(
            [query(STUDENT, x, sigma, wish, self.texts, self.unit) for x, sigma, wish in triples]
        )

    @torch.no_grad()
    def until(self, wishes: Sequence[Wish], nodes: Sequence[int]) -> list[Tensor]:
        """The state of each wish at a node of its own, [P, C]; node 0 is the noise."""
        states = [self.start(wish) for wish in wishes]
        for step, (sigma, after) in enumerate(pairwise(self.nodes)):
            on = [i for i, node in enumerate(nodes) if node > step]
            if not on:
                break
            found = self.velocities(
                [states[i] for i in on], [sigma] * len(on), [wishes[i] for i in on]
            )
            for i, velocity in zip(on, found, strict=True):
                states[i] = flow.euler(states[i], velocity.cpu(), sigma, after)
        return states

    def pictures(self, wishes: Sequence[Wish]) -> list[Tensor]:
        """The final states: packed latents [P, C]."""
        return self.until(wishes, [self.steps] * len(wishes))
