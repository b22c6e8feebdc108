"""Options that several commands share, declared once."""

from typing import Annotated

import typer

MACHINE = "Model and machine"

Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="Where to compute: cpu, cuda, cuda:1, ... \\[default: cuda, else cpu]",
        rich_help_panel=MACHINE,
        show_default=False,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="DTYPE",
        help="Precision: float32, bfloat16 or float16. \\[default: what suits the device]",
        rich_help_panel=MACHINE,
        show_default=False,
    ),
]
Threads = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="CPU threads. They change the time, never the picture. \\[default: all]",
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


def unwrapped(text: str) -> str:
    """Help text with each paragraph on one line, as typer needs it to fill the terminal."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
