"""Every import points down the list of rooms in the design, never up and never aside."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import danqing

PACKAGE = Path(danqing.__file__).parent
# From the top down; rooms of one line may use each other.
ROOMS: list[set[str]] = [
    {"cli", "__main__"},
    {"engine", "denoising", "previews", "checks", "composer", "numerics"},
    {"training"},
    {"adapters"},
    {"weights"},
    {"sampling"},
    {"models"},
    {"recipe"},
    {"atomic"},
    {"types", "errors", "version"},
]
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}
# What these rooms may use besides themselves: no files, no recipes.
ONLY = {"models": {"types", "errors"}, "sampling": {"types", "errors", "models"}}
WITHOUT_TORCH = ["types", "errors", "version", "atomic", "recipe", "composer", "cli"]
# Names that the package itself answers for; who asks for one imports its home.
HOMES = {name: home.split(".")[1] for name, home in danqing._HOMES.items()}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, those inside functions and for types included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def rooms_used(source: str) -> Iterator[tuple[int, str]]:
    for line, name in imported(ast.parse(source)):
        parts = name.split(".")
        if parts[0] == "danqing":
            room = parts[1] if len(parts) > 1 else "engine"  # the bare package can give all
            yield line, HOMES.get(room, room)


def arrows_up(room: str, source: str) -> list[str]:
    return [
        f"line {line}: {room} imports {used}"
        for line, used in rooms_used(source)
        if RANK[used] < RANK[room]
    ]


def test_every_file_has_a_room() -> None:
    assert len(FILES) > 30
    assert {room_of(path) for path in FILES} - set(RANK) == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    assert arrows_up(room_of(path), path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("models", "from danqing.weights.files import read_json"),
        ("models", "from danqing.sampling import flow"),
        ("sampling", "from danqing import weights"),
        ("weights", "def f():\n    import danqing.engine"),
        ("recipe", "from danqing import Pipeline"),
        ("types", "import danqing"),
        ("training", "from danqing.engine import load"),
    ],
)
def test_an_arrow_up_is_seen(room: str, source: str) -> None:
    assert len(arrows_up(room, source)) == 1


@pytest.mark.parametrize("room", ONLY)
def test_networks_and_formulas_know_nothing_of_files(room: str) -> None:
    sources = [path.read_text("utf-8") for path in FILES if room_of(path) == room]
    used = {name for source in sources for _, name in rooms_used(source)}
    assert used - {room} <= ONLY[room]


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_rooms_without_tensors_do_not_name_torch(room: str) -> None:
    for path in FILES:
        if room_of(path) == room:
            names = [name for _, name in imported(ast.parse(path.read_text("utf-8")))]
            assert not [n for n in names if n.split(".")[0] in ("torch", "safetensors")], path


def test_no_framework_of_others_is_used() -> None:
    foreign = {"diffusers", "transformers", "peft", "accelerate", "pickle"}
    for path in FILES:
        names = {n.split(".")[0] for _, n in imported(ast.parse(path.read_text("utf-8")))}
        assert not names & foreign, path


def test_importing_them_does_not_bring_torch_along() -> None:
    rooms = [room for room in WITHOUT_TORCH if room != "cli"]
    imports = ", ".join(f"danqing.{room}" for room in rooms)
    code = f"import sys, {imports}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
