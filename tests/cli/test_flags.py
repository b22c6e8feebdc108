"""The commands and their flags, frozen: whoever adds one changes this list, and means it."""

import inspect
from dataclasses import fields

import pytest
import typer

from danqing.cli.app import app
from danqing.cli.fields import READERS
from danqing.types import Request

MACHINE = ["--model", "--device", "--dtype", "--threads"]
PICTURE = ["--seed", "--count", "--size", "--steps", "--sigmas", "--guidance", "--negative"]
WRITING = ["--naming", "--dtype", "--overwrite"]
FLAGS = {
    "danqing": ["--version", "--debug"],
    "danqing generate": [
        "PROMPT",
        "--prompts",
        "--out",
        "--overwrite",
        "--json",
        *PICTURE,
        "--adapter",
        *MACHINE,
        "--throughput",
    ],
    "danqing reproduce": ["FILE", "--out", "--json", "--model", "--adapter", *MACHINE[1:]],
    "danqing train": [
        "lora|full",
        "--data",
        "--out",
        "--config",
        "--trigger",
        "--caption",
        "--size",
        "--preset",
        "--steps",
        "--batch",
        "--rate",
        "--rank",
        "--optimiser",
        "--seed",
        "--minutes",
        "--set",
        "--prompt",
        "--few-step",
        "--plan",
        "--dry-run",
        *MACHINE,
        "--quantise",
        "--checkpointing",
        "--json",
    ],
    "danqing distill": [
        "--out",
        "--prompts",
        "--adapter",
        "--start",
        "--config",
        "--steps",
        "--size",
        "--guidance",
        "--imitation",
        "--matching",
        "--batch",
        "--rank",
        "--seed",
        "--minutes",
        "--set",
        "--prompt",
        "--plan",
        *MACHINE,
        "--quantise",
        "--checkpointing",
        "--json",
    ],
    "danqing model": [],
    "danqing model info": ["MODEL", "--json"],
    "danqing model export": ["MODEL", "FOLDER", "--dtype"],
    "danqing model fetch": ["HUB_ID"],
    "danqing adapter": [],
    "danqing adapter info": ["ADAPTER", "--json"],
    "danqing adapter convert": [
        "ADAPTER",
        "TARGET",
        "--naming",
        "--dtype",
        "--base",
        "--steps",
        "--sigmas",
        "--guidance",
        "--overwrite",
    ],
    "danqing adapter merge": ["--model", "--adapter", "--out", "--dtype", "--allow-quantised"],
    "danqing adapter extract": ["BASE", "CHANGED", "TARGET", "--rank", *WRITING, "--json"],
    "danqing adapter combine": ["--adapter", "--out", "--rank", *WRITING, "--json"],
    "danqing adapter fetch": ["NAME"],
}


def tree(command, name):
    yield name, command
    for child, inner in getattr(command, "commands", {}).items():
        yield from tree(inner, f"{name} {child}")


COMMANDS = dict(tree(typer.main.get_command(app), "danqing"))


def flags(command) -> list[str]:
    return [p.opts[0] if p.param_type_name == "option" else p.metavar for p in command.params]


def test_flags_are_the_frozen_ones():
    assert {name: flags(command) for name, command in COMMANDS.items()} == FLAGS


def test_every_field_of_a_request_can_be_set_by_a_line():
    assert list(READERS) == [field.name for field in fields(Request)]


@pytest.mark.parametrize("name", FLAGS)
def test_every_command_has_help_with_an_example(run, name):
    done = run(*name.split()[1:], "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Example: {name}" in done.out
    for flag in FLAGS[name]:
        assert flag in done.out


def test_every_option_has_help():
    for name, command in COMMANDS.items():
        for parameter in command.params:
            assert parameter.help, (name, parameter.name)
        assert inspect.cleandoc(command.help or ""), name


@pytest.mark.parametrize("arguments", [(), ("model",), ("adapter",)])
def test_no_command_shows_the_commands(run, arguments):
    done = run(*arguments)
    assert done.code == 0
    assert "Commands" in done.out
