"""All commands in one tree, and the options that stand before a command."""

from typing import Annotated

import typer

from danqing.cli import Settings
from danqing.cli.adapter import adapter_app
from danqing.cli.distill import EPILOG as DISTILL_EPILOG
from danqing.cli.distill import HELP as DISTILL_HELP
from danqing.cli.distill import distill
from danqing.cli.generate import EPILOG as GENERATE_EPILOG
from danqing.cli.generate import HELP as GENERATE_HELP
from danqing.cli.generate import generate
from danqing.cli.model import model_app
from danqing.cli.options import unwrapped
from danqing.cli.reproduce import EPILOG as REPRODUCE_EPILOG
from danqing.cli.reproduce import HELP as REPRODUCE_HELP
from danqing.cli.reproduce import reproduce
from danqing.cli.train import EPILOG as TRAIN_EPILOG
from danqing.cli.train import HELP as TRAIN_HELP
from danqing.cli.train import train
from danqing.version import __version__

app = typer.Typer(
    name="danqing",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog='Example: danqing generate "a red fox" "一只红色的狐狸" --seed 7',
)
app.command("generate", help=unwrapped(GENERATE_HELP), epilog=GENERATE_EPILOG)(generate)
app.command("reproduce", help=unwrapped(REPRODUCE_HELP), epilog=REPRODUCE_EPILOG)(reproduce)
app.command("train", help=unwrapped(TRAIN_HELP), epilog=TRAIN_EPILOG)(train)
app.command("distill", help=unwrapped(DISTILL_HELP), epilog=DISTILL_EPILOG)(distill)
app.add_typer(model_app, name="model")
app.add_typer(adapter_app, name="adapter")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"danqing {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def danqing(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show tracebacks of errors (or set DANQING_DEBUG=1)."),
    ] = False,
) -> None:
    """Text to pictures with the Qwen-Image family: fast, exactly repeatable, adaptable."""
    settings: Settings = context.obj
    settings.debug = settings.debug or debug
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
