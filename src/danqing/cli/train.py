"""``danqing train``: pictures in, an adapter (or a whole model) out."""

import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from danqing.cli import fields, options
from danqing.cli.terminal import busy, note
from danqing.errors import DataError, TrainingError

DATA, LEARNING, WATCHING = "Data and files", "Learning", "Watching"

Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="PATH[*N]",
        help="Folder of pictures with .txt captions, JSONL or CSV file, or tar shard; "
        "N times as often than others; may be given again.",
        rich_help_panel=DATA,
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="The result: a .safetensors file, or a folder.", rich_help_panel=DATA
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Settings in TOML; options stand above it.", rich_help_panel=DATA
    ),
]
Trigger = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Stands before every caption.", rich_help_panel=DATA),
]
Caption = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="Of pictures that have none of their own.", rich_help_panel=DATA
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WxH",
        help="Pixels of a picture, in any shape. \\[default: the model's size]",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="style, subject or fast: what to begin the settings from. \\[default: style]",
        show_default=False,
        rich_help_panel=LEARNING,
    ),
]
Steps = Annotated[
    str | None, typer.Option(metavar="N", help="Steps in all.", rich_help_panel=LEARNING)
]
Batch = Annotated[
    str | None, typer.Option(metavar="N", help="Pictures of a step.", rich_help_panel=LEARNING)
]
Rate = Annotated[
    str | None, typer.Option(metavar="X", help="Peak learning rate.", rich_help_panel=LEARNING)
]
Rank = Annotated[
    str | None, typer.Option(metavar="N", help="Of the adapter.", rich_help_panel=LEARNING)
]
Optimiser = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="adamw, adamw8bit or prodigy.", rich_help_panel=LEARNING),
]
Seed = Annotated[
    str | None,
    typer.Option(metavar="N", help="Of everything that is drawn.", rich_help_panel=LEARNING),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting, as in a TOML file; a name that is not known lists them.",
        rich_help_panel=LEARNING,
    ),
]
Minutes = Annotated[
    str | None,
    typer.Option(
        metavar="X",
        help="Save and end after so long; the same command goes on.",
        rich_help_panel=LEARNING,
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="Paint this now and then; may be given again.",
        rich_help_panel=WATCHING,
    ),
]
FewStep = Annotated[
    str | None,
    typer.Option(
        metavar="ADAPTER",
        help="Paint the prompts also with this few-step adapter on top.",
        rich_help_panel=WATCHING,
    ),
]
Planning = Annotated[
    bool,
    typer.Option(
        "--plan", help="Show how much memory it takes, and end.", rich_help_panel=WATCHING
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check settings and pictures, show the plan, and end.",
        rich_help_panel=WATCHING,
    ),
]
Quantise = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Keep the frozen weights in 8 bits: int8 or float8.",
        rich_help_panel=options.MACHINE,
    ),
]
Checkpointing = Annotated[
    bool,
    typer.Option(
        "--checkpointing",
        help="Less memory, more time: compute each block twice.",
        rich_help_panel=options.MACHINE,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="mini, a folder in the diffusers layout, or a hub id. \\[default: mini]",
        show_default=False,
        rich_help_panel=options.MACHINE,
    ),
]
HELP = """Train an adapter (LoRA) on your pictures, or all weights of the transformer.

The same command again goes on where it was stopped or killed, to the same bits. Beside the result
PATH.safetensors, the folder PATH.run holds state, log, samples and report.html.

Prints the files.
"""
EPILOG = (
    "Example: danqing train lora --data photos/ --out mine.safetensors --trigger ohwx "
    '--prompt "ohwx, a red fox"'
)


def train(
    kind: Annotated[str, typer.Argument(metavar="lora|full", help="An adapter, or all weights.")],
    data: Data = None,
    out: Out = None,
    config: Config = None,
    trigger: Trigger = None,
    caption: Caption = None,
    size: Size = None,
    preset: Preset = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    rank: Rank = None,
    optimiser: Optimiser = None,
    seed: Seed = None,
    minutes: Minutes = None,
    more: Set = None,
    prompt: Prompts = None,
    few_step: FewStep = None,
    plan: Planning = False,
    dry_run: DryRun = False,
    model: Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    quantise: Quantise = None,
    checkpointing: Checkpointing = False,
    as_json: options.Json = False,
) -> None:
    numbers = {
        "steps": steps, "batch": batch, "rate": rate, "rank": rank, "seed": seed,
        "minutes": minutes, "threads": threads,
    }  # fmt: skip
    texts = {
        "out": out, "trigger": trigger, "caption": caption, "preset": preset,
        "optimiser": optimiser, "few_step": few_step, "model": model, "device": device,
        "dtype": dtype, "quantise": quantise,
    }  # fmt: skip
    lists = {"data": data, "prompts": prompt}
    flags: dict[str, Any] = {"kind": kind}
    flags |= {n: fields.number(v) for n, v in numbers.items() if v is not None}
    flags |= {n: v for n, v in texts.items() if v is not None}
    flags |= {n: v for n, v in lists.items() if v}
    flags |= {"checkpointing": True} if checkpointing else {}
    if size is not None:
        flags["size"] = list(fields.parse(fields.size, size, "--size"))
    for given in more or ():
        name, value = assigned(given)
        if name in flags and name != "kind":
            raise TrainingError(f"--set {name} and an option of the same setting; give one")
        flags[name] = value
    run(config, flags, as_json, plan=plan, dry_run=dry_run)


def run(
    config: Path | None, flags: Mapping[str, Any], as_json: bool, *, plan: bool, dry_run: bool
) -> None:
    from danqing.training.settings import read

    with busy("starting"):
        from danqing.cli.training import Watcher, show_plan
        from danqing.training.settings import read

    settings = read(config, flags, whole=not plan)
    if plan:
        show_plan(settings, as_json=as_json)
        return
    command = shlex.join(["danqing", *sys.argv[1:]])
    with all_faults(), Watcher(settings, as_json=as_json) as watcher:
        watcher.look() if dry_run else watcher.train(command)


def assigned(text: str) -> tuple[str, Any]:
    """The name and the value of NAME=VALUE, the value as TOML has it, or as plain text."""
    name, sign, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not sign or not name.isidentifier():
        raise TrainingError(f"--set {text!r} must be NAME=VALUE, for example --set ema=0.99")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, UnicodeError):
        return name, value


@contextmanager
def all_faults() -> Iterator[None]:
    """Every fault of the data on its own line, since all of them are to be mended."""
    try:
        yield
    except DataError as error:
        faults: Sequence[str] = getattr(error, "faults", ())
        if len(faults) < 2:
            raise
        for fault in faults:
            note(" ".join(fault.split()))
        raise DataError(
            f"the training data have {len(faults)} faults, listed above; mend these files or "
            "leave them out"
        ) from error
