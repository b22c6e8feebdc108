"""`--prompts FILE`: text and JSONL, what stands above what, and errors that name the line."""

import json
from pathlib import Path

import pytest

from danqing.types import Request


def jsonl(*records: object) -> str:
    Path("p.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in records))
    return "p.jsonl"


def test_text_has_one_prompt_per_line(run, pipeline):
    Path("p.txt").write_bytes("\ufeffa red fox\r\n\n  \n# 1 dad\u2028x\n一只狐狸  ".encode())
    assert run("generate", "first", "--prompts", "p.txt").code == 0
    prompts = [r.prompt for r in pipeline.painted]
    assert prompts == ["first", "a red fox", "# 1 dad\u2028x", "一只狐狸"]


def test_jsonl_sets_any_field(run, pipeline):
    record = {"prompt": "fox", "negative": "dull", "seed": 3, "size": [48, 16], "steps": 2}
    more = {"guidance": 2, "adapters": {"ink": 1}}
    assert run("generate", "--prompts", jsonl({**record, **more})).code == 0
    wanted = Request("fox", "dull", 3, (48, 16), 2, None, 2.0, {"ink": 1.0})
    assert pipeline.painted == [wanted]


def test_a_line_stands_above_the_options(run, pipeline):
    file = jsonl(
        {"prompt": "a"},
        {"prompt": "b", "seed": 1, "size": "32x32", "guidance": 2, "negative": "n"},
        {"prompt": "c", "sigmas": [1, 0.5]},
        {"prompt": "d", "steps": None, "seed": None},
    )
    options = ["--steps", "2", "--size", "16x16", "--guidance", "5", "--negative", "m"]
    assert run("generate", "--prompts", file, "--seed", "9", *options).code == 0
    a, b, c, d = pipeline.painted
    assert (a.seed, a.steps, a.size, a.guidance, a.negative) == (9, 2, (16, 16), 5, "m")
    assert (b.seed, b.steps, b.size, b.guidance, b.negative) == (1, 2, (32, 32), 2, "n")
    assert (c.sigmas, c.seed) == ((1.0, 0.5), 9)
    assert (d.steps, d.seed) == (2, 9)


def test_seeds_and_count_of_lines(run, pipeline):
    file = jsonl({"prompt": "a", "seed": 1}, {"prompt": "b"})
    run("generate", "--prompts", file, "--seed", "7", "--count", "2")
    assert [(r.prompt, r.seed) for r in pipeline.painted] == [
        ("a", 1),
        ("a", 2),
        ("b", 7),
        ("b", 8),
    ]


def test_an_option_that_no_line_takes_is_named(run):
    file = jsonl({"prompt": "a", "seed": 1, "sigmas": [1]})
    done = run("generate", "--prompts", file, "--seed", "7", "--steps", "4")
    warned = [line.split(" has no effect")[0] for line in done.err.splitlines()]
    assert warned == ["warning: --steps", "warning: --seed"]
    assert run("generate", "--prompts", file).err == ""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"prompt": "fox"', "not JSON"),
        ('{"prompt": "fox", "guidance": NaN}', "NaN is no JSON number"),
        ('{"prompt": "fox", "seed": 1, "seed": 2}', "a field stands twice"),
        ("[" * 100_000, "not JSON"),
        ('["fox"]', "must be an object"),
        ('"fox"', "must be an object"),
        ("{}", "no prompt"),
        ('{"prompt": ""}', "prompt '' is empty"),
        ('{"prompt": 5}', "prompt 5 must be text"),
        ('{"prompt": "\\ud83e"}', "not valid Unicode"),
        ('{"prompt": "fox", "sede": 7}', "unknown field 'sede'; the fields are prompt, "),
        ('{"prompt": "fox", "seed": "7"}', "seed '7' must be a whole number from 0"),
        ('{"prompt": "fox", "seed": 7.0}', "seed 7.0 must be a whole number"),
        ('{"prompt": "fox", "seed": true}', "seed True must be a whole number"),
        ('{"prompt": "fox", "seed": -1}', "seed -1 must be a whole number"),
        ('{"prompt": "fox", "seed": 9223372036854775808}', "to 9223372036854775807"),
        ('{"prompt": "fox", "steps": 0}', "steps 0 must be a whole number of at least 1"),
        ('{"prompt": "fox", "steps": 2, "sigmas": [1]}', "both steps and sigmas"),
        ('{"prompt": "fox", "size": [100, 100]}', "the nearest: 96x96"),
        ('{"prompt": "fox", "size": 128}', "size 128 must be WIDTHxHEIGHT"),
        ('{"prompt": "fox", "sigmas": [0.5, 0.9]}', "falling noise levels"),
        ('{"prompt": "fox", "sigmas": []}', "falling noise levels"),
        ('{"prompt": "fox", "sigmas": [true]}', "falling noise levels"),
        ('{"prompt": "fox", "guidance": "4"}', "guidance '4' must be a number"),
        ('{"prompt": "fox", "negative": 4}', "negative 4 must be text"),
        ('{"prompt": "fox", "adapters": {"a": "b"}}', "must be names with strengths"),
        ('{"prompt": "fox", "adapters": ["a"]}', "must be names with strengths"),
        ('{"prompt": "fox", "size": [4096, 16]}', "beyond the model"),
    ],
)
def test_a_wrong_line_is_named(run, refused, line, told):
    Path("p.jsonl").write_text(f'{{"prompt": "good"}}\n\n{line}\n')
    error = refused("generate", "--prompts", "p.jsonl")
    assert error.startswith("error: p.jsonl line 3: ")
    assert told in error


def test_a_prompt_too_long_is_named_by_its_line(run, refused):
    Path("p.txt").write_text("fox\n" + "x" * 201)
    assert refused("generate", "--prompts", "p.txt").startswith("error: p.txt line 2: a prompt of")


def test_text_that_is_not_utf8_is_named_by_its_line(run, refused):
    Path("p.txt").write_bytes(b"fox\n" + "狐狸".encode("gbk"))
    error = refused("generate", "--prompts", "p.txt")
    assert error.startswith("error: p.txt line 2: ")
    assert "save the file as UTF-8" in error


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl"])
@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_file(run, refused, name, content):
    Path(name).write_text(content)
    assert f"{name} holds no prompt" in refused("generate", "--prompts", name)
    assert f"{name} holds no prompt" in refused("generate", "fox", "--prompts", name)


def test_a_file_that_is_not_there_or_of_another_kind(run, refused):
    assert "cannot read none.txt: No such file" in refused("generate", "--prompts", "none.txt")
    Path("p.json").write_text("[]")
    assert "p.json ends in .json; give .txt" in refused("generate", "--prompts", "p.json")
    assert "cannot read .: " in refused("generate", "--prompts", ".")
