"""From drafts and options to the list of requests: whose value holds, which seeds, how many."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from danqing.cli import fields
from danqing.cli.prompts import Draft
from danqing.cli.terminal import note, warn
from danqing.errors import RequestError
from danqing.types import Request

if TYPE_CHECKING:
    from danqing.engine import Pipeline

# Two ways to say one thing: a line that sets either one is not given the other.
_SAME = {"steps": ("steps", "sigmas"), "sigmas": ("steps", "sigmas")}
_DRAWN_SEEDS = 2**32  # short enough to type again


@dataclass(frozen=True)
class Job:
    """A request, and the words that name where it came from in an error."""

    request: Request
    origin: str


def read_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The given options as fields of a Request; ``None`` is one that was not given."""
    given = {name: value for name, value in options.items() if value is not None}
    if "steps" in given and "sigmas" in given:
        raise RequestError("both --steps and --sigmas; give one of them")
    return {name: fields.parse(name, value, f"--{name}") for name, value in given.items()}


def combine(
    drafts: Sequence[Draft], options: Mapping[str, Any], seeds: Sequence[int], count: int
) -> list[Job]:
    """A job for every draft and seed. What a draft sets itself stands above the options."""
    if count < 1:
        raise RequestError(f"--count {count} must be a whole number of at least 1")
    if count > 1 and len(seeds) > 1:
        raise RequestError(
            f"--count {count} with {len(seeds)} seeds; give the first --seed only, or all of them"
        )
    starts = [fields.parse("seed", seed, "--seed") for seed in seeds] or [_drawn_seed(drafts)]
    _warn_of_idle([*options, "seed"] if seeds else list(options), drafts)
    jobs = []
    for draft in drafts:
        own = draft.fields
        given = {k: v for k, v in options.items() if not _sets(draft, k)}
        for start in [own["seed"]] if "seed" in own else starts:
            for seed in _run_of_seeds(start, count):
                jobs.append(Job(Request(**{**given, **own, "seed": seed}), draft.origin))
    return jobs


def _run_of_seeds(start: int, count: int) -> range:
    if start + count > fields.SEED_LIMIT:
        raise RequestError(
            f"seed {start} with --count {count} passes the limit {fields.SEED_LIMIT - 1}; "
            "give a smaller seed"
        )
    return range(start, start + count)


def _sets(draft: Draft, name: str) -> bool:
    return any(same in draft.fields for same in _SAME.get(name, (name,)))


def _drawn_seed(drafts: Sequence[Draft]) -> int:
    """A seed by chance, told, so that the pictures can be painted again."""
    seed = secrets.randbelow(_DRAWN_SEEDS)
    if not all(_sets(draft, "seed") for draft in drafts):
        note(f"seed {seed} (drawn by chance; --seed {seed} paints the same again)")
    return seed


def _warn_of_idle(options: Sequence[str], drafts: Sequence[Draft]) -> None:
    for name in options:
        if all(_sets(draft, name) for draft in drafts):
            warn(f"--{name} has no effect: every line of the prompts file sets its own")


def check(pipe: "Pipeline", jobs: Sequence[Job]) -> list[Request]:
    """The requests with the model's defaults filled in; an error names the job that is at fault."""
    requests = [job.request for job in jobs]
    try:
        return pipe.check(requests)
    except RequestError:
        for job in jobs if len(jobs) > 1 else []:
            try:
                pipe.check([job.request])
            except RequestError as error:
                raise RequestError(f"{job.origin.rstrip(':')}: {error}") from error
        raise
