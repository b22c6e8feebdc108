"""`import danqing` and `danqing --help` answer at once: torch is imported when there is work."""

import subprocess
import sys

import pytest

REPORT = "import sys; print(*sorted(m for m in sys.modules if '.' not in m), file=sys.stderr)"
HEAVY = {"torch", "numpy", "safetensors", "tokenizers", "huggingface_hub", "einops"}


def modules_after(code: str) -> set[str]:
    """Top-level modules of a fresh interpreter in which ``code`` has run."""
    command = [sys.executable, "-c", f"{code}\n{REPORT}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def run(*arguments: str) -> str:
    return f"""
import sys
from danqing.cli import main
sys.argv = ["danqing", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code
"""


def test_the_check_can_fail() -> None:
    assert "torch" in modules_after("import danqing; danqing.load")


@pytest.mark.parametrize("code", ["import danqing", "import danqing; danqing.Request('x')"])
def test_importing_is_light(code: str) -> None:
    assert not modules_after(code) & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["--version"]])
def test_help_is_light(arguments: list[str]) -> None:
    assert "torch" not in modules_after(run(*arguments))


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "danqing", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "generate" in done.stdout
    assert "danqing.cli" in modules
    assert "torch" not in modules


def test_painting_does_not_import_the_compiler() -> None:
    """torch._dynamo takes seconds to import; networks are built without waking it."""
    code = """
import danqing, sys
danqing.load().generate(danqing.Request("a fox", steps=1))
print("torch._dynamo" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
