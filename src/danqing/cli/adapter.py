"""``danqing adapter``: look at adapters, convert them, fold them in, make them, fetch them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from danqing.adapters.refusal import printable
from danqing.cli import fields, jobs, options
from danqing.cli.terminal import busy, note, say, say_json, size_text
from danqing.errors import RequestError

if TYPE_CHECKING:
    from danqing.adapters.adapter import Sampling
    from danqing.adapters.info import AdapterInfo, Group

adapter_app = typer.Typer(
    help="Look at adapters (LoRA), convert, merge, extract, combine and fetch them.",
    rich_markup_mode="rich",
    epilog="Example: danqing adapter info style.safetensors",
)
LONGEST = 300  # characters of a stranger's words that are shown
LISTED = 3  # layers that kept the least
Name = Annotated[
    str,
    typer.Argument(metavar="ADAPTER", help="A file, a folder of PEFT or diffusers, or a name."),
]
Target = Annotated[Path, typer.Argument(metavar="TARGET", help="The new .safetensors file.")]
Adapters = Annotated[
    list[str],
    typer.Option(
        "--adapter",
        metavar="NAME[:STRENGTH]",
        help="File or name, strength 1 if not given; may be given again.",
    ),
]
Rank = Annotated[str, typer.Option(metavar="N", help="Of the new adapter.")]
Naming = Annotated[
    str,
    typer.Option(
        metavar="NAMING",
        help="How tensors are called: diffusers, comfyui, kohya or lightning.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="DTYPE",
        help="Of the new tensors: float32, bfloat16 or float16. \\[default: what they come in]",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file of the same name.")]
Steps = Annotated[
    str | None, typer.Option(metavar="N", help="Note that it was made for so many steps.")
]
Sigmas = Annotated[
    str | None,
    typer.Option(metavar="1,0.9,...", help="Note the noise levels that it was made for."),
]
Guidance = Annotated[
    str | None,
    typer.Option(metavar="X", help="Note the guidance that it was made for; 1 is none."),
]
Base = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Note the model that it was made for.")
]
Model = Annotated[
    str, typer.Option(metavar="MODEL", help="mini, a folder in the diffusers layout, or a hub id.")
]


@adapter_app.callback(invoke_without_command=True)
def choose(context: typer.Context) -> None:
    """Look at adapters (LoRA), convert, merge, extract, combine and fetch them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@adapter_app.command(epilog="Example: danqing adapter info style.safetensors")
def info(adapter: Name, as_json: options.Json = False) -> None:
    """Show what an adapter changes, how strongly, and what it says about itself."""
    from danqing.adapters.info import describe

    with busy(f"looking at {adapter}"):
        found = describe(adapter)
    if as_json:
        say_json({**asdict(found), "path": str(found.path)})
    else:
        _show(found)


@adapter_app.command(
    epilog="Example: danqing adapter convert style.safetensors comfy.safetensors --naming comfyui"
)
def convert(
    source: Name,
    target: Target,
    naming: Naming,
    dtype: Dtype = None,
    base: Base = None,
    steps: Steps = None,
    sigmas: Sigmas = None,
    guidance: Guidance = None,
    overwrite: Overwrite = False,
) -> None:
    """Write an adapter again, as another tool names its tensors.

    The tensors stay as they are, unless --dtype is given. Prints the file.
    """
    given = jobs.read_options({"steps": steps, "sigmas": sigmas, "guidance": guidance})
    from danqing.adapters import published
    from danqing.adapters import write as writing

    sampling = _sampling(given)
    noted = _identity(base) if base is not None else None
    with busy(f"writing {target}"):
        writing.convert(
            published.find(source),
            target,
            naming,
            dtype=dtype,
            base=noted,
            sampling=sampling,
            overwrite=overwrite,
        )
    say(str(target))


@adapter_app.command(
    epilog="Example: danqing adapter merge --model mini --adapter style.safetensors:0.8 --out ink"
)
def merge(
    model: Model,
    adapter: Adapters,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to; new, or empty.")],
    dtype: Dtype = None,
    allow_quantised: Annotated[
        bool,
        typer.Option(
            "--allow-quantised",
            help="Round back into weights of 8 bits or fewer, which loses most of an adapter.",
        ),
    ] = False,
) -> None:
    """Fold adapters into a model's weights, and write it as a new model.

    Prints the folder.
    """
    strengths = jobs.read_adapters(adapter)
    from danqing.adapters import merge as merging

    with busy(f"writing {out}"):
        merged = merging.merge(
            model,
            list(strengths.items()),
            out,
            dtype=dtype,
            allow_quantised=allow_quantised,
        )
    note(f"{merged.tensors} tensors changed; rounding took {_percent(merged.lost)} of the update")
    say(str(out))


@adapter_app.command(
    epilog="Example: danqing adapter extract mini tuned/ difference.safetensors --rank 16"
)
def extract(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model to begin from.")],
    changed: Annotated[str, typer.Argument(metavar="CHANGED", help="The same model, changed.")],
    target: Target,
    rank: Rank,
    naming: Naming = "diffusers",
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Write the difference of two models as an adapter.

    Prints the file, and how much of the difference the rank keeps.
    """
    size = fields.parse(fields.count, fields.number(rank), "--rank")
    from danqing.adapters import extract as extracting

    with busy(f"comparing {base} and {changed}"):
        found = extracting.extract(
            base, changed, target, rank=size, naming=naming, dtype=dtype, overwrite=overwrite
        )
    note(f"kept {_percent(found.total)} of the difference's energy{_least(found.energy)}")
    record = {"path": str(target), "energy": found.total, "layers": dict(found.energy)}
    say_json(record) if as_json else say(str(target))


@adapter_app.command(
    epilog="Example: danqing adapter combine --adapter style.safetensors:0.8 "
    "--adapter lightning-8 --out both.safetensors"
)
def combine(
    adapter: Adapters,
    out: Annotated[Path, typer.Option(metavar="TARGET", help="The new .safetensors file.")],
    rank: Annotated[
        str | None,
        typer.Option(metavar="N", help="Of the new adapter. \\[default: as exactness needs]"),
    ] = None,
    naming: Naming = "diffusers",
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Make one adapter that does what several do together.

    Exact for LoRA without --rank, else as near as the rank allows. Prints the file.
    """
    strengths = jobs.read_adapters(adapter)
    size = fields.parse(fields.count, fields.number(rank), "--rank") if rank is not None else None
    from danqing.adapters import combine as combining
    from danqing.adapters import published

    files = [(published.find(name), strength) for name, strength in strengths.items()]
    with busy(f"writing {out}"):
        found = combining.combine_files(
            files, out, rank=size, naming=naming, dtype=dtype, overwrite=overwrite
        )
    kept = list(found.energy.values())
    least, mean = min(kept), sum(kept) / len(kept)
    if size is not None:
        note(f"kept {_percent(mean)} of a layer's energy on average, {_percent(least)} at least")
    record = {"path": str(out), "least": least, "mean": mean, "layers": dict(found.energy)}
    say_json(record) if as_json else say(str(out))


@adapter_app.command(epilog="Example: danqing adapter fetch lightning-8")
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="lightning-4, lightning-8, or owner/repository/file.safetensors on the hub.",
        ),
    ],
) -> None:
    """Download an adapter into the Hugging Face cache, so that it can be used offline.

    Prints the file.
    """
    from danqing.adapters.published import fetch as download

    say(str(download(name)))


# ---- what is given ----------------------------------------------------------------------------


def _sampling(given: Mapping[str, Any]) -> "Sampling | None":
    from danqing.adapters.adapter import Sampling
    from danqing.sampling.schedule import check_sigmas

    if not given:
        return None
    guidance = given.get("guidance")
    if "sigmas" in given:
        levels = tuple(check_sigmas(given["sigmas"]))
        return Sampling(len(levels) - 1, levels, guidance)
    if "steps" not in given:
        raise RequestError(f"--guidance {guidance:g} alone; give --steps or --sigmas with it")
    return Sampling(given["steps"], None, guidance)


def _identity(model: str) -> dict[str, str]:
    """By which an adapter says what it was made for."""
    from danqing.weights.fingerprint import fingerprint
    from danqing.weights.hub import find
    from danqing.weights.model import check_parts

    folder = find(model)
    check_parts(folder)
    return {"id": model, "fingerprint": fingerprint(folder)}


# ---- what is told -----------------------------------------------------------------------------


def _show(found: "AdapterInfo") -> None:
    """Two plain tables: what the file says, and a row for each kind of layer."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(found):
        facts.add_row(name, printable(value, LONGEST))
    groups = Table(box=box.SIMPLE_HEAD, show_footer=True, collapse_padding=True, pad_edge=False)
    groups.add_column("target", "total", overflow="fold")
    groups.add_column("kind", no_wrap=True)
    groups.add_column("blocks", no_wrap=True)
    total = sum(group.layers for group in found.groups)
    groups.add_column("layers", str(total), justify="right", no_wrap=True)
    for heading in ("rank", "alpha", "norm"):
        groups.add_column(heading, justify="right", no_wrap=True)
    for group in found.groups:
        groups.add_row(*_row(group))
    # Words from a stranger's file are shown as they are, not as markup.
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(facts)
    console.print(groups)
    for oddity in found.odd:
        console.print(f"odd: {printable(oddity, LONGEST)}")


def _facts(found: "AdapterInfo") -> Iterator[tuple[str, str]]:
    yield "adapter", str(found.path)
    yield "naming", found.naming
    yield "size", f"{size_text(found.bytes)}, {found.tensors} tensors in {', '.join(found.dtypes)}"
    yield "sha256", found.sha256[:16]
    if found.base:
        base = found.base
        yield "base", f"{base.get('id', '-')}, fingerprint {base.get('fingerprint', '-')}"
    if found.sampling:
        yield "sampling", str(found.sampling)
    yield from found.metadata.items()


def _row(group: "Group") -> list[str]:
    norm = "-" if group.norm is None else f"{group.norm:#.3g}".rstrip(".")
    numbers = [str(group.layers), _list(group.ranks), _list(group.alphas), norm]
    return [group.target, group.kind, _blocks(group.blocks), *numbers]


def _list(numbers: Sequence[float]) -> str:
    """``4, 8``, or the two ends of a longer list."""
    shown = [f"{number:g}" for number in numbers]
    return ", ".join(shown) or "-" if len(shown) <= 3 else f"{shown[0]}..{shown[-1]}"


def _blocks(ranges: str) -> str:
    """The ranges; of many, the first ones and the last, so that the line has room for them."""
    parts = ranges.split(", ")
    return ranges or "-" if len(parts) <= 3 else f"{parts[0]}, {parts[1]}, ..., {parts[-1]}"


def _percent(share: float) -> str:
    if 0 < share < 0.0001:
        return "less than 0.01 %"
    return f"{share:.2%}".replace("%", " %")


def _least(energy: Mapping[str, float]) -> str:
    """The layers that kept the least, to stand behind the sum."""
    worst = sorted(energy.items(), key=lambda pair: pair[1])[:LISTED]
    named = ", ".join(f"{layer} {_percent(share)}" for layer, share in worst)
    return f"; least in {named}" if named else ""
