"""From drafts and options to the list of requests: whose value holds, which seeds, how many."""

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from danqing.cli import fields
from danqing.cli.prompts import Draft
from danqing.cli.terminal import warn
from danqing.errors import AdapterError, RequestError
from danqing.types import Request

if TYPE_CHECKING:
    from danqing.engine import Pipeline

# Two ways to say one thing: a line that sets either one is not given the other.
_SAME = {"steps": ("steps", "sigmas"), "sigmas": ("steps", "sigmas")}
_NUMBERS = ("steps", "guidance")
_FLAGS = {"adapters": "adapter"}  # options that are not called as their field


@dataclass(frozen=True)
class Job:
    """A request, and the words that name where it came from in an error."""

    request: Request
    origin: str


@dataclass(frozen=True)
class Seeds:
    """For the prompts that set none; ``drawn`` by chance, or given."""

    values: list[int]
    drawn: bool


def read_options(options: Mapping[str, str | None]) -> dict[str, Any]:
    """The texts of the options as fields of a Request; ``None`` is one that was not given."""
    given = {name: value for name, value in options.items() if value is not None}
    if "steps" in given and "sigmas" in given:
        raise RequestError("both --steps and --sigmas; give one of them")
    values = {k: fields.number(v) if k in _NUMBERS else v for k, v in given.items()}
    return {k: fields.parse(fields.READERS[k], v, f"--{k}") for k, v in values.items()}


def read_adapters(texts: Sequence[str]) -> dict[str, float]:
    """The values of ``--adapter``, NAME or NAME:STRENGTH, as names with strengths."""
    found: dict[str, float] = {}
    for given in texts:
        name, strength = _parted(given)
        if name in found:
            raise RequestError(f"--adapter {name} is given twice; give it once, with its strength")
        found[fields.parse(fields.text, name, "--adapter")] = strength
    return found


def _parted(given: str) -> tuple[str, float]:
    """What stands before the last colon and behind it, but for files with colons in their names."""
    whole = ":" not in given or os.path.exists(os.path.expanduser(given))
    name, tail = (given, "1") if whole else given.rsplit(":", 1)
    if not name.strip():
        raise RequestError(
            f"--adapter {given!r} names no adapter; give a file or a name, for example "
            "style.safetensors:0.8"
        )
    value = fields.number(tail)
    return name, fields.parse(fields.strength, value, f"--adapter {given}: strength")


def read_seeds(texts: Sequence[str]) -> Seeds:
    """The values of ``--seed``, or one by chance, short enough to type again."""
    if not texts:
        return Seeds([secrets.randbelow(2**32)], drawn=True)
    values = [fields.parse(fields.seed, fields.number(text), "--seed") for text in texts]
    return Seeds(values, drawn=False)


def combine(
    drafts: Sequence[Draft], options: Mapping[str, Any], seeds: Seeds, count: int
) -> list[Job]:
    """A job for every draft and seed. What a draft sets itself stands above the options."""
    if count > 1 and len(seeds.values) > 1:
        raise RequestError(
            f"--count {count} with {len(seeds.values)} seeds; give the first --seed only, "
            "or all of them without --count"
        )
    _warn_of_idle(options if seeds.drawn else [*options, "seed"], drafts)
    jobs = []
    for draft in drafts:
        own = draft.fields
        given = {k: v for k, v in options.items() if not _sets(draft, k)}
        for start in [own["seed"]] if "seed" in own else seeds.values:
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


def _warn_of_idle(options: Iterable[str], drafts: Sequence[Draft]) -> None:
    for name in options:
        if all(_sets(draft, name) for draft in drafts):
            flag = _FLAGS.get(name, name)
            warn(f"--{flag} has no effect: every line of the prompts file sets its own")


def check(pipe: "Pipeline", jobs: Sequence[Job]) -> list[Request]:
    """The requests with defaults filled in.

    Raises:
        RequestError, AdapterError: what the pipeline says of one that it cannot paint, with the
            origin of the job at fault.
    """
    try:
        return pipe.check([job.request for job in jobs])
    except (RequestError, AdapterError):
        for job in jobs:
            try:
                pipe.check([job.request])
            except (RequestError, AdapterError) as error:
                origin = f"{job.origin}: " if job.origin else ""
                raise type(error)(f"{origin}{error}") from error
        raise
