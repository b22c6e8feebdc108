"""``danqing model``: look at models, copy them, fetch them."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from danqing.cli import options
from danqing.cli.terminal import busy, say, say_json, size_text

if TYPE_CHECKING:
    from danqing.weights.info import ModelInfo

model_app = typer.Typer(
    help="Look at models, copy them, fetch them.",
    rich_markup_mode="rich",
    epilog="Example: danqing model info mini",
)
Name = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="mini, a folder in the diffusers layout, or a hub id."),
]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; new, or empty.")]
HubId = Annotated[str, typer.Argument(metavar="HUB_ID", help="For example Qwen/Qwen-Image.")]


@model_app.callback(invoke_without_command=True)
def choose(context: typer.Context) -> None:
    """Look at models, copy them, fetch them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@model_app.command(epilog="Example: danqing model info mini")
def info(model: Name, as_json: options.Json = False) -> None:
    """Show the parts of a model: parameters, and bytes on the disk and in memory.

    Reads no weights, so it tells what a model needs before it is loaded.
    """
    from danqing.weights.info import describe

    with busy(f"looking at {model}"):
        found = describe(model)
    if as_json:
        say_json({**asdict(found), "folder": str(found.folder)})
    else:
        _show(found)


@model_app.command(epilog="Example: danqing model export mini ~/models/mini --dtype float32")
def export(model: Name, folder: Folder, dtype: options.Dtype = None) -> None:
    """Write a copy of a model in the diffusers layout, which diffusers opens.

    Prints the folder.
    """
    from danqing.weights.export import export as write

    with busy(f"writing {folder}"):
        write(model, folder, dtype)
    say(str(folder))


@model_app.command(epilog="Example: danqing model fetch Qwen/Qwen-Image")
def fetch(hub_id: HubId) -> None:
    """Download a model into the Hugging Face cache, so that it can be used offline.

    Only settings and safetensors are fetched, no code. Prints the folder.
    """
    from danqing.weights.hub import fetch as download

    say(str(download(hub_id)))


def _show(found: "ModelInfo") -> None:
    """Two plain tables: what the model is, and its parts."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    defaults = found.defaults
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_row("model", found.id)
    facts.add_row("folder", str(found.folder))
    facts.add_row("fingerprint", found.fingerprint)
    facts.add_row("default size", f"{defaults.size[0]}x{defaults.size[1]}")
    facts.add_row("default steps", str(defaults.steps))
    facts.add_row("default guidance", f"{defaults.guidance:g}")
    if defaults.adapter:
        own = f"{defaults.adapter}, with its own steps, unless others are asked for"
        facts.add_row("default adapter", own)
    dtypes = list(dict.fromkeys(d for part in found.components for d in part.bytes_in_memory))
    parts = Table(box=box.SIMPLE_HEAD, show_footer=True, padding=(0, 1), pad_edge=False)
    parts.add_column("component", "total", no_wrap=True)
    parts.add_column("class", no_wrap=True)
    for heading, footer in _totals(found, dtypes).items():
        parts.add_column(heading, footer, justify="right")
    for part in found.components:
        sizes = [part.bytes_on_disk, *(part.bytes_in_memory.get(dtype, 0) for dtype in dtypes)]
        parts.add_row(part.name, part.kind, _count(part.parameters), *map(size_text, sizes))
    console = Console(highlight=False, soft_wrap=True)
    console.print(facts)
    console.print(parts)


def _totals(found: "ModelInfo", dtypes: list[str]) -> dict[str, str]:
    """Heading and sum of each column of numbers."""
    parts: list[Any] = found.components
    totals = {
        "parameters": _count(sum(part.parameters for part in parts)),
        "on disk": size_text(sum(part.bytes_on_disk for part in parts)),
    }
    for dtype in dtypes:
        total = sum(part.bytes_in_memory.get(dtype, 0) for part in parts)
        totals[f"in {dtype}"] = size_text(total)
    return totals


def _count(number: int) -> str:
    """1 234 567 as 1.23 M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)
