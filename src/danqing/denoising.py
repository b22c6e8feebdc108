"""The loop from noise to clean latents, for the pictures of one pack.

Pictures of different sizes, texts, schedules, guidance and adapters share every evaluation of the
network; one with fewer steps leaves the pack earlier. Does not know prompts, pixels or requests.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from danqing.adapters.inject import Injection, Mix
from danqing.adapters.tables import Table, Tables
from danqing.models.layout import Layout, Segment
from danqing.models.transformer import Transformer
from danqing.sampling import flow
from danqing.sampling.guidance import guide


@dataclass
class Job:
    """A picture on its way: its patches change with every step."""

    patches: Tensor  # [P, C] float32
    rows: int
    columns: int
    text: Tensor
    negative: Tensor | None  # none: no guidance
    guidance: float
    sigmas: list[float]
    mix: Mix = ()  # its adapters
    step: int = 0  # steps done
    velocity: Tensor | None = None

    def segment(self, text: Tensor) -> Segment:
        return Segment(self.rows, self.columns, text.shape[0])


class Ride:
    """Some jobs in one pack: the conditional branch of each, then the unconditional ones."""

    def __init__(self, jobs: list[Job], network: Transformer) -> None:
        self.jobs = jobs
        self.guided = [job for job in jobs if job.negative is not None]
        texts = [job.text for job in jobs] + [cast(Tensor, job.negative) for job in self.guided]
        self.riders = [*jobs, *self.guided]
        self.text = torch.cat(texts).to(network.img_in.weight.dtype)
        segments = (job.segment(text) for job, text in zip(self.riders, texts, strict=True))
        self.layout = Layout(tuple(segments))
        self.adapted = Injection(network, self.layout, [job.mix for job in self.riders])


class Denoiser:
    """A transformer, and the modulation tables of the last schedules."""

    def __init__(self, network: Transformer) -> None:
        self._network = network
        self._tables = Tables(network)

    def run(self, jobs: list[Job]) -> Iterator[tuple[int, int]]:
        """Euler steps for all jobs of a pack; a job with fewer steps leaves the pack earlier."""
        sigmas = (sigma for job in jobs for sigma in job.sigmas[:-1])
        table = self._tables.get(sigmas, [job.mix for job in jobs])
        ride = Ride(jobs, self._network)
        steps = max(len(job.sigmas) for job in jobs) - 1
        for step in range(steps):
            active = [job for job in jobs if step < len(job.sigmas) - 1]
            if len(active) < len(ride.jobs):
                ride = Ride(active, self._network)
            self._evaluate(ride, step, table)
            for job in active:
                sigma, following = job.sigmas[step : step + 2]
                velocity = cast(Tensor, job.velocity)
                job.patches = flow.euler(job.patches, velocity, sigma, following)
                job.step = step + 1
            yield step + 1, steps

    def _evaluate(self, ride: Ride, step: int, table: Table) -> None:
        """One evaluation of the network for all riders."""
        rows = [table.row(job.sigmas[step], job.mix) for job in ride.riders]
        patches = torch.cat([job.patches for job in ride.riders]).to(ride.text.dtype)
        with ride.adapted:
            out = self._network(patches, ride.text, ride.layout, table.modulation, rows).float()
        parts = out.split(ride.layout.patch_lengths)
        against = dict(zip(map(id, ride.guided), parts[len(ride.jobs) :], strict=True))
        for job, conditional in zip(ride.jobs, parts, strict=False):
            blank = against.get(id(job))
            job.velocity = conditional if blank is None else guide(conditional, blank, job.guidance)
