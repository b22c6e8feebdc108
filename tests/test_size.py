"""Files and functions stay small; nothing prints but the command line."""

import ast
from pathlib import Path

import pytest

import danqing

PACKAGE = Path(danqing.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE = 420
MAX_FUNCTION = 60
LONGER: dict[str, str] = {}  # "file:function" -> why it may be longer

every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> list[Function]:
    return [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, Function)]


def lines(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def label(path: Path, function: Function) -> str:
    return f"{path.relative_to(PACKAGE)}:{function.name}"


@every_file
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MAX_FILE


@every_file
def test_functions_are_short(path: Path) -> None:
    long = {label(path, f): lines(f) for f in functions(path) if lines(f) > MAX_FUNCTION}
    assert [name for name in long if name not in LONGER] == []


@every_file
def test_nothing_prints(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] != "cli":
        names = {
            n.id for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Name)
        }
        assert not names & {"print", "input", "breakpoint"}


def test_exceptions_are_still_needed() -> None:
    long = {label(p, f) for p in FILES for f in functions(p) if lines(f) > MAX_FUNCTION}
    assert set(LONGER) <= long


def test_half_of_the_functions_have_at_most_twelve_lines() -> None:
    found = sorted(lines(f) for path in FILES for f in functions(path))
    assert len(found) > 200
    assert found[len(found) // 2] <= 12
