"""Options that several commands share, declared once."""

from typing import Annotated, Literal

import typer

MACHINE = "Model and machine"

Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="Where to compute: cpu, cuda, cuda:1, ... [default: the best one here]",
        rich_help_panel=MACHINE,
        show_default=False,
    ),
]
DtypeName = Literal["float32", "bfloat16", "float16"]
Dtype = Annotated[
    DtypeName | None,
    typer.Option(
        help="Precision of the weights. [default: the model's own]",
        rich_help_panel=MACHINE,
        show_default=False,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="CPU threads. They change the time, never the picture. [default: all]",
        rich_help_panel=MACHINE,
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="mini, a folder in the diffusers layout, or a hub id such as Qwen/Qwen-Image.",
        rich_help_panel=MACHINE,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object per line on stdout, for programs."),
]
