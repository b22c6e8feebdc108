"""The command line: arguments, terminal and exit codes, no tensors.

Exit codes: 0 done, 1 failed (or pictures differ), 2 a mistake in what was asked, 130 interrupted.
This module only runs the commands and turns what they raise into those; it is the one place that
catches everything. Nothing here or below imports torch before a command starts its work.
"""

import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn


@dataclass
class Settings:
    """What the options before the command decide; it rides on typer's context."""

    debug: bool = False


def main() -> NoReturn:
    """The command ``danqing``: run it and leave the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    settings = Settings(debug=bool(os.environ.get("DANQING_DEBUG")))
    _print_any_text()
    try:
        with _plain_warnings():
            code = _invoke(arguments, settings)
        sys.stdout.flush()  # a closed pipe shows here, not in the interpreter's last moments
        return code
    except KeyboardInterrupt as error:
        _tell(f"interrupted: {error}" if str(error) else "interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `danqing ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if settings.debug:
            traceback.print_exc()
        message, code = _explained(error, settings)
        _tell(message)
        return code


def _invoke(arguments: Sequence[str], settings: Settings) -> int:
    import typer

    from danqing.cli.app import app

    command = typer.main.get_command(app)
    try:
        # Not `command(...)`: that would turn Ctrl-C and wrong options into its own endings.
        with command.make_context("danqing", list(arguments), obj=settings) as context:
            command.invoke(context)
        return 0
    except typer.Exit as leaving:
        return leaving.exit_code


def _explained(error: Exception, settings: Settings) -> tuple[str, int]:
    """The one line for an exception, and the exit code."""
    from danqing.errors import DanqingError

    if isinstance(error, DanqingError):
        return f"error: {error}", 2
    if hasattr(error, "format_message"):  # typer's own: an unknown option, a missing argument
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "danqing"
        return f"error: {error.format_message().rstrip('.')}; see `{command} --help`", 2
    hint = "" if settings.debug else "; run `danqing --debug ...` again to see where"
    return f"error: {type(error).__name__}: {error}{hint}", 1


def _tell(message: str) -> None:
    import typer

    typer.echo(" ".join(message.split()), err=True)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as one line each, without the place in the code, and each text once."""
    told = set()

    def tell(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in told:
            told.add(str(message))
            _tell(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = tell
        yield


def _print_any_text() -> None:
    """Let a prompt in any script pass through a terminal that cannot show it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
