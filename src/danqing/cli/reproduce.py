"""``danqing reproduce``: paint pictures again from their recipes and compare."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from danqing import recipe as recipes
from danqing.cli import compare, jobs, options
from danqing.cli.output import Output
from danqing.cli.painting import open_model, paint
from danqing.cli.terminal import say, say_json
from danqing.errors import RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

    from danqing.engine import Pipeline

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Pictures that danqing has painted.")
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Where the model is now, if not where the recipe says.",
        rich_help_panel=options.MACHINE,
    ),
]
Out = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="Keep the repainted pictures here. [default: not kept]"),
]
"""E
echo
