"""`--adapter` of `generate` and `reproduce`: what it means, and what it does to real pictures."""

import errno
import json
import os
from pathlib import Path

import pytest

from danqing import cli, recipe
from danqing.adapters.adapter import Sampling
from danqing.adapters.store import digest
from danqing.cli import jobs, painting
from danqing.types import Request
from tests.cli.conftest import write_lora

FOUR = Sampling(4, (1.0, 0.9, 0.75, 0.5, 0.0), 1.0)
EIGHT = Sampling(8, guidance=1.0)
OVERRIDE = "(--steps, --sigmas and --guidance override it)"


# ---- what it means ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["style.safetensors"], {"style.safetensors": 1.0}),
        (["style.safetensors:0.8"], {"style.safetensors": 0.8}),
        (["ink:-0.5", "paper:2"], {"ink": -0.5, "paper": 2.0}),
        (["ink:0"], {"ink": 0.0}),
        (["ink:1e-3"], {"ink": 0.001}),
        (["one/two/ink.safetensors:.5"], {"one/two/ink.safetensors": 0.5}),
        (["C:\\art\\ink.safetensors:0.5"], {"C:\\art\\ink.safetensors": 0.5}),
        (["a:b:2"], {"a:b": 2.0}),
        (["C:there"], {"C:there": 1.0}),
        (["there:7"], {"there:7": 1.0}),
        (["there:7:0.5"], {"there:7": 0.5}),
        (["~/at home:7"], {"~/at home:7": 1.0}),
        (["水墨:0.5"], {"水墨": 0.5}),
    ],
)
def test_names_and_strengths(run, pipeline, monkeypatch, tmp_path, texts, wanted):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("C:there", "there:7", "at home:7"):
        Path(name).touch()
    options = [argument for text in texts for argument in ("--adapter", text)]
    assert run("generate", "fox", "owl", "--seed", "1", *options).code == 0
    assert [request.adapters for request in pipeline.painted] == [wanted, wanted]


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (
            ["style.safetensors:much"],
            "--adapter style.safetensors:much: strength 'much' must be a number, for example 0.8",
        ),
        (["style:"], "--adapter style:: strength '' must be a number"),
        (["style:0.8:"], "--adapter style:0.8:: strength '' must be a number"),
        (["style:nan"], "--adapter style:nan: strength nan must be a number"),
        (["style:-inf"], "--adapter style:-inf: strength -inf must be a number"),
        (["style:" + "9" * 500], "strength inf must be a number"),
        ([""], "--adapter '' names no adapter; give a file or a name, for example style.saf"),
        ([":0.8"], "--adapter ':0.8' names no adapter"),
        ([" :0.8"], "--adapter ' :0.8' names no adapter"),
        (["ink", "ink:0.5"], "--adapter ink is given twice; give it once, with its strength"),
        (["\udcff"], "is not valid Unicode text"),
        (["nope"], "adapter 'nope' is neither a file nor a name"),
    ],
)
def test_a_mistake_is_one_line(refused, texts, told):
    assert told in refused("generate", "fox", *[a for text in texts for a in ("--adapter", text)])


def test_mistakes_are_told_before_the_model_is_loaded(refused, pipeline):
    refused("generate", "fox", "--adapter", "ink:much")
    assert pipeline.loads == []


def test_a_line_stands_above_the_option(run, pipeline):
    lines = [{"prompt": "a"}, {"prompt": "b", "adapters": {"ink": 2}}, {"prompt": "c"}]
    lines[2]["adapters"] = {}
    Path("p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = run("generate", "--prompts", "p.jsonl", "--seed", "1", "--adapter", "paper:0.5")
    assert (done.code, done.err) == (0, "")
    assert [r.adapters for r in pipeline.painted] == [{"paper": 0.5}, {"ink": 2.0}, {}]


def test_an_option_that_no_line_takes_is_named(run):
    Path("p.jsonl").write_text('{"prompt": "a", "adapters": {"ink": 1}}')
    done = run("generate", "--prompts", "p.jsonl", "--seed", "1", "--adapter", "paper")
    assert done.err.startswith("warning: --adapter has no effect: every line")


@pytest.mark.parametrize(
    ("adapters", "told"),
    [
        ('{"": 1}', "has an empty name"),
        ('{" ": 1}', "has an empty name"),
        ('{"ink": true}', "must be names with strengths"),
        (f'{{"ink": 1{"0" * 400}}}', "must be names with strengths"),
        ('{"ink": 1, "ink": 2}', "a field stands twice"),
        ('{"\\ud83e": 1}', "is not valid Unicode text"),
        ('{"nope": 1}', "adapter 'nope' is neither"),
    ],
)
def test_a_wrong_line_is_named(refused, adapters, told):
    line = f'{{"prompt": "fox", "adapters": {adapters}}}'
    Path("p.jsonl").write_text(f'{{"prompt": "fox"}}\n{line}\n')
    error = refused("generate", "--prompts", "p.jsonl")
    assert error.startswith("error: p.jsonl line 2: ")
    assert told in error


def test_a_number_that_no_float_holds(refused):
    Path("p.jsonl").write_text(f'{{"prompt": "fox", "guidance": 1{"0" * 400}}}\n')
    assert "must be a number from 1" in refused("generate", "--prompts", "p.jsonl")


# ---- adapters that were made for one way of sampling ------------------------------------------


def test_it_says_once_how_it_samples(run, pipeline):
    pipeline.made = {"few": FOUR}
    done = run("generate", "fox", "--seed", "1", "--count", "3", "--adapter", "few:0.5")
    sampling = "sampling with 4 steps at 1, 0.9, 0.75, 0.5, guidance 1"
    assert done.err == f"{sampling}, as the adapter was made for {OVERRIDE}\n"


@pytest.mark.parametrize("option", ["--steps 4", "--sigmas 1,0.5", "--guidance 2"])
def test_it_says_nothing_of_what_the_user_said(run, pipeline, option):
    pipeline.made = {"few": FOUR}
    done = run("generate", "fox", "--seed", "1", "--adapter", "few", *option.split())
    assert (done.code, done.err) == (0, "")


def test_it_says_each_way_of_sampling(run, pipeline):
    pipeline.made = {"few": FOUR, "more": EIGHT}
    lines = [f'{{"prompt": "a", "adapters": {{"{n}": 1}}}}' for n in ("few", "more", "none")]
    Path("p.jsonl").write_text("\n".join(lines))
    done = run("generate", "--prompts", "p.jsonl", "--seed", "1")
    assert [line.split(",")[0] for line in done.err.splitlines()] == [
        "sampling with 4 steps at 1",
        "sampling with 8 steps",
    ]


# ---- what it does -----------------------------------------------------------------------------


@pytest.fixture
def paint(tiny_model, tmp_path, monkeypatch, capsys):
    """Paints a fox with the tiny model, and gives recipe and stderr."""
    monkeypatch.chdir(tmp_path)

    def paint(*options):
        fixed = ["--seed", "7", "--out", "fox.png", "--overwrite", "--model", str(tiny_model)]
        assert cli.run(["generate", "fox", *fixed, *options]) == 0
        return recipe.read("fox.png"), capsys.readouterr().err

    return paint


def test_it_changes_picture_and_recipe(paint):
    write_lora("ink.safetensors")
    plain, _ = paint()
    inked, told = paint("--adapter", "ink.safetensors:0.5")
    sha256 = digest(Path("ink.safetensors"))
    assert (plain["adapters"], told) == ({}, "")
    assert inked["adapters"] == {"ink.safetensors": {"strength": 0.5, "sha256": sha256}}
    assert inked["pixels_sha256"] != plain["pixels_sha256"]
    assert inked["pixels_sha256"] != paint("--adapter", "ink.safetensors")[0]["pixels_sha256"]
    idle, _ = paint("--adapter", "ink.safetensors:0")
    assert idle["pixels_sha256"] == plain["pixels_sha256"]


def test_the_samplers_steps_come_from_the_adapter(paint):
    write_lora("few.safetensors", sampling=FOUR)
    found, told = paint("--adapter", "few.safetensors")
    assert found["sigmas"] == list(FOUR.sigmas)
    assert found["guidance"] == 1.0
    assert told.startswith("sampling with 4 steps at 1, 0.9, 0.75, 0.5, guidance 1, as the")
    found, told = paint("--adapter", "few.safetensors", "--steps", "3", "--guidance", "2")
    assert found["steps"] == 3
    assert told.startswith("warning: an adapter was made for 4 steps")
    assert len(told.splitlines()) == 1


def test_the_bar_counts_the_adapters_steps(tiny_pipe, tmp_path):
    few = write_lora(str(tmp_path / "few.safetensors"), sampling=FOUR)
    todo = [jobs.Job(Request("a", adapters=own), "") for own in ({few: 1.0}, {})]
    bar = painting._Bar(jobs.check(tiny_pipe, todo))
    assert bar._bar.tasks[0].total == (4 + 1) + (2 + 1)


def test_a_wrong_adapter_is_refused_with_nothing_written(paint, tiny_model, capsys, tmp_path):
    Path("text.safetensors").write_text("hello")
    for name, told in (("none", "neither a file nor"), ("text.safetensors", "not a safetensors")):
        arguments = ["generate", "fox", "--model", str(tiny_model), "--adapter", name]
        assert cli.run(arguments) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [tmp_path / "text.safetensors"]


# ---- painting it again ------------------------------------------------------------------------


@pytest.fixture
def again(tiny_model, capsys):
    """Runs ``danqing reproduce fox.png``; gives exit code, stdout and stderr."""

    def again(*options):
        code = cli.run(["reproduce", "fox.png", "--model", str(tiny_model), *map(str, options)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return again


EQUAL = (0, "fox.png: equal\n", "")


def test_it_is_painted_again(paint, again):
    write_lora("ink.safetensors")
    write_lora("few.safetensors", seed=1, sampling=FOUR)
    paint("--adapter", "ink.safetensors:0.5", "--adapter", "few.safetensors:-0.25")
    assert again() == EQUAL
    code, out, _ = again("--json")
    assert code == 0
    assert "adapters" not in json.loads(out)


def test_another_file_of_that_name_is_refused(paint, again):
    write_lora("ink.safetensors")
    before = digest(Path("ink.safetensors"))
    paint("--adapter", "ink.safetensors")
    write_lora("ink.safetensors", seed=1)
    code, out, told = again()
    assert (code, out) == (2, "")
    here = digest(Path("ink.safetensors"))
    assert told == (
        f"error: fox.png was painted with adapter 'ink.safetensors' of SHA-256 {before[:16]}, but "
        f"ink.safetensors here has {here[:16]}; name the right one with --adapter\n"
    )


def test_a_file_that_is_gone_is_refused_and_found_elsewhere(paint, again):
    write_lora("ink.safetensors")
    paint("--adapter", "ink.safetensors:0.5")
    Path("deep").mkdir()
    Path("ink.safetensors").rename("deep/moved.safetensors")
    code, out, told = again()
    assert (code, out) == (2, "")
    assert told.startswith("error: fox.png was painted with adapter 'ink.safetensors': adapter ")
    assert told.endswith("; if its file is elsewhere, name it with --adapter\n")
    assert again("--adapter", "deep/moved.safetensors") == EQUAL
    write_lora("ink.safetensors", seed=1)
    assert again("--adapter", "deep/moved.safetensors") == EQUAL
    again("--adapter", "deep/moved.safetensors", "--out", "new")
    kept = recipe.read("new/fox.png")["adapters"]
    assert kept == {
        "deep/moved.safetensors": {"strength": 0.5, "sha256": digest(Path(*kept))},
    }


def test_files_are_told_apart_by_checksum(paint, again):
    write_lora("ink.safetensors")
    write_lora("few.safetensors", seed=1)
    paint("--adapter", "ink.safetensors:0.5", "--adapter", "few.safetensors:2")
    Path("ink.safetensors").rename("a.safetensors")
    Path("few.safetensors").rename("b.safetensors")
    assert again("--adapter", "b.safetensors", "--adapter", "a.safetensors") == EQUAL
    code, _, told = again("--adapter", "b.safetensors")
    assert code == 2
    assert "was painted with adapter 'ink.safetensors': " in told


def test_one_adapter_under_two_names(paint, again):
    write_lora("ink.safetensors")
    paint("--adapter", "ink.safetensors:0.5", "--adapter", "./ink.safetensors:0.25")
    assert again() == EQUAL
    Path("ink.safetensors").rename("moved.safetensors")
    assert again("--adapter", "moved.safetensors") == EQUAL


def test_a_file_that_no_picture_asks_for_is_told(paint, again):
    write_lora("ink.safetensors")
    write_lora("other.safetensors", seed=1)
    paint("--adapter", "ink.safetensors")
    code, out, told = again("--adapter", "other.safetensors")
    assert (code, out) == EQUAL[:2]
    assert told == (
        "warning: --adapter other.safetensors has no effect: "
        "no picture was painted with this file\n"
    )


def test_a_file_to_search_must_be_there(paint, again, tmp_path):
    paint()
    code, _, told = again("--adapter", "none.safetensors")
    assert code == 2
    assert told.startswith("error: adapter 'none.safetensors' is neither a file nor one of")
    (tmp_path / "folder").mkdir()
    code, _, told = again("--adapter", "folder")
    assert code == 2
    assert told.startswith("error: folder is a folder without adapter_model.safetensors")


def test_a_model_has_adapters_of_its_own(paint, again, tiny_copy):
    (tiny_copy / "adapters").mkdir()
    write_lora(str(tiny_copy / "adapters" / "ink.safetensors"))
    found, _ = paint("--adapter", "ink", "--model", str(tiny_copy))
    assert set(found["adapters"]) == {"ink"}
    assert again("--model", tiny_copy) == EQUAL


def test_a_given_file_is_that_file_whatever_the_models_own_are_called(paint, again, tiny_copy):
    (tiny_copy / "adapters").mkdir()
    write_lora(str(tiny_copy / "adapters" / "ink.safetensors"), seed=1)
    write_lora("right.safetensors")
    paint("--adapter", "right.safetensors", "--model", str(tiny_copy))
    Path("right.safetensors").rename("ink")
    assert again("--model", tiny_copy, "--adapter", "ink") == EQUAL


def test_a_file_to_search_that_cannot_be_read(paint, again, monkeypatch):
    paint("--adapter", write_lora("ink.safetensors"))

    def refuse(_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("danqing.adapters.store.digest", refuse)
    told = "error: cannot read adapter ink.safetensors: Permission denied; check the name\n"
    assert again("--adapter", "ink.safetensors") == (2, "", told)
