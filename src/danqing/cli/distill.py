"""``danqing distill``: a slow, guided model in, an adapter that paints in a few steps out."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from danqing.cli import fields, options
from danqing.cli.terminal import busy
from danqing.cli.train import (
    Checkpointing,
    Config,
    Minutes,
    Model,
    Planning,
    Prompts,
    Quantise,
    Set,
    all_faults,
    assigned,
)
from danqing.errors import TrainingError

FILES, LEARNING = "Teacher and files", "Learning"

Out = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="The result: a .safetensors file.", rich_help_panel=FILES),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="FILE[:STRENGTH]",
        help="Your own adapter, on in teacher and student; may be given again.",
        rich_help_panel=FILES,
    ),
]
Start = Annotated[
    str | None,
    typer.Option(
        metavar="ADAPTER",
        help="A few-step adapter to begin from, as with --imitation 100 --matching 20.",
        rich_help_panel=FILES,
    ),
]
PromptFile = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="What to learn with, a prompt a line. \\[default: the model's own list]",
        show_default=False,
        rich_help_panel=FILES,
    ),
]
Steps = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Of the student. \\[default: 4]",
        show_default=False,
        rich_help_panel=LEARNING,
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="WxH",
        help="Pixels of the pictures; may be given again. \\[default: the model's size]",
        show_default=False,
        rich_help_panel=LEARNING,
    ),
]
Imitation = Annotated[
    str | None,
    typer.Option(metavar="N", help="Steps of imitating the teacher.", rich_help_panel=LEARNING),
]
Matching = Annotated[
    str | None,
    typer.Option(metavar="N", help="Steps of matching its pictures.", rich_help_panel=LEARNING),
]
Batch = Annotated[
    str | None, typer.Option(metavar="N", help="Pictures of a step.", rich_help_panel=LEARNING)
]
Rank = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Of the adapter. \\[default: that of --start, else 32]",
        show_default=False,
        rich_help_panel=LEARNING,
    ),
]
Guidance = Annotated[
    str | None,
    typer.Option(
        metavar="X",
        help="Of the teacher. \\[default: the model's]",
        show_default=False,
        rich_help_panel=LEARNING,
    ),
]
Seed = Annotated[
    str | None,
    typer.Option(metavar="N", help="Of everything that is drawn.", rich_help_panel=LEARNING),
]
HELP = """Turn fifty guided steps into a few without guidance, kept as an adapter (LoRA).

The same command again goes on where it was stopped or killed, to the same bits. Beside the result
PATH.safetensors, the folder PATH.run holds state, log, samples and report.html.

Prints the file.
"""
EPILOG = "Example: danqing distill --model mini --steps 4 --out fast.safetensors"


def distill(
    out: Out = None,
    prompts_file: PromptFile = None,
    adapter: Adapters = None,
    start: Start = None,
    config: Config = None,
    steps: Steps = None,
    size: Sizes = None,
    guidance: Guidance = None,
    imitation: Imitation = None,
    matching: Matching = None,
    batch: Batch = None,
    rank: Rank = None,
    seed: Seed = None,
    minutes: Minutes = None,
    more: Set = None,
    prompt: Prompts = None,
    plan: Planning = False,
    model: Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    quantise: Quantise = None,
    checkpointing: Checkpointing = False,
    as_json: options.Json = False,
) -> None:
    numbers = {
        "steps": steps, "guidance": guidance, "imitation": imitation, "matching": matching,
        "batch": batch, "rank": rank, "seed": seed, "minutes": minutes, "threads": threads,
    }  # fmt: skip
    texts = {
        "out": out, "prompts_file": prompts_file, "start": start, "model": model,
        "device": device, "dtype": dtype, "quantise": quantise,
    }  # fmt: skip
    lists = {"adapters": adapter, "sizes": size, "prompts": prompt}
    flags: dict[str, Any] = {n: fields.number(v) for n, v in numbers.items() if v is not None}
    flags |= {n: v for n, v in texts.items() if v is not None}
    flags |= {n: v for n, v in lists.items() if v}
    flags |= {"checkpointing": True} if checkpointing else {}
    for given in more or ():
        name, value = assigned(given)
        if name in flags:
            raise TrainingError(f"--set {name} and an option of the same setting; give one")
        flags[name] = value
    run(config, flags, as_json, plan=plan)


def run(config: Path | None, flags: Mapping[str, Any], as_json: bool, *, plan: bool) -> None:
    with busy("starting"):
        from danqing.cli.distilling import Watcher, show_plan
        from danqing.training.distill.settings import read

    settings = read(config, flags, whole=not plan)
    if plan:
        show_plan(settings, as_json=as_json)
        return
    command = shlex.join(["danqing", *sys.argv[1:]])
    with all_faults(), Watcher(settings, as_json=as_json) as watcher:
        watcher.distill(command)
