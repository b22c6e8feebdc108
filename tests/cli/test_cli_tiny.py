"""The command line on a real, tiny model: what the fake pipeline cannot show."""

from pathlib import Path

import pytest

from danqing import cli, recipe


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, *arguments: object) -> int:
    return cli.run([*command.split(), *map(str, arguments)])


def test_generate_then_reproduce(folder, tiny_model, capsys):
    assert run("generate 一只红色的狐狸 fox --seed 7 --count 2 --model", tiny_model) == 0
    assert run("generate owl --sigmas 1,0.5 --guidance 1 --size 32x64 --model", tiny_model) == 0
    paths = sorted(Path("outputs").iterdir())
    assert len(paths) == 5
    capsys.readouterr()
    assert run("reproduce --model", tiny_model, *paths) == 0
    assert capsys.readouterr().out.splitlines() == [f"{path}: equal" for path in paths]
    assert run("reproduce --dtype bfloat16 --model", tiny_model, paths[0]) == 1
    assert "dtype: float32 -> bfloat16" in capsys.readouterr().out


def test_warnings_of_the_engine_are_told_once(folder, tiny_model, capsys):
    assert run("generate fox --seed 7 --guidance 1 --negative dull --model", tiny_model) == 0
    assert capsys.readouterr().err == "warning: the negative prompt has no effect at guidance 1\n"


def test_what_only_the_model_knows_is_refused_with_the_line(folder, tiny_model, capsys):
    Path("p.txt").write_text("fox\n" + "fox " * 5000)
    assert run("generate --prompts p.txt --model", tiny_model) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: p.txt line 2: ")
    assert sorted(folder.iterdir()) == [folder / "p.txt"]


def test_info_export_and_the_same_picture(folder, tiny_model, capsys):
    assert run("model info", tiny_model) == 0
    assert "transformer" in capsys.readouterr().out
    assert run("model export", tiny_model, "copy") == 0
    for model, out in ((tiny_model, "a.png"), ("copy", "b.png")):
        assert run("generate fox --seed 7 --model", model, "--out", out) == 0
    hashes = [recipe.read(name)["pixels_sha256"] for name in ("a.png", "b.png")]
    assert hashes[0] == hashes[1]
