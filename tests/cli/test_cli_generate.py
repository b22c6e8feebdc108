"""`danqing generate` where all goes well: what is asked for is painted, told and kept."""

import json
from pathlib import Path

import pytest
from PIL import Image

from danqing import recipe
from danqing.types import BLANK, Request


def test_paints_into_outputs_and_tells_the_path(run):
    done = run("generate", "A red fox!", "--seed", "7")
    assert (done.code, done.out, done.err) == (0, "outputs/a-red-fox-7.png\n", "")
    assert recipe.read(done.paths[0])["prompt"] == "A red fox!"
    assert sorted(Path("outputs").iterdir()) == done.paths


def test_prompts_are_paths_in_any_script(run):
    done = run("generate", "一只红色的狐狸", "a red fox", "--seed", "7", "--out", "图")
    assert done.out.splitlines() == ["图/一只红色的狐狸-7.png", "图/a-red-fox-7.png"]


def test_count_gives_seeds_that_follow(run, pipeline):
    assert run("generate", "fox", "owl", "--seed", "7", "--count", "3").code == 0
    assert [(r.prompt, r.seed) for r in pipeline.painted] == [
        *[("fox", s) for s in (7, 8, 9)],
        *[("owl", s) for s in (7, 8, 9)],
    ]


def test_seed_may_be_given_again(run, pipeline):
    assert run("generate", "fox", "--seed", "7", "--seed", "3").code == 0
    assert [r.seed for r in pipeline.painted] == [7, 3]


def test_without_a_seed_one_is_drawn_and_shown(run, pipeline):
    done = run("generate", "fox", "--count", "2")
    seed = pipeline.painted[0].seed
    assert [r.seed for r in pipeline.painted] == [seed, seed + 1]
    assert f"seed {seed} " in done.err
    assert run("generate", "fox").err != done.err


def test_options_reach_the_request(run, pipeline):
    options = ["--size", "64x48", "--steps", "2", "--guidance", "3.5", "--negative", "blurry"]
    assert run("generate", "fox", "--seed", "5", *options).code == 0
    wanted = Request("fox", negative="blurry", seed=5, size=(64, 48), steps=2, guidance=3.5)
    assert pipeline.painted == [wanted]


def test_what_is_not_given_is_left_to_the_model(run, pipeline, monkeypatch):
    asked = []
    monkeypatch.setattr(pipeline, "check", lambda requests: asked.extend(requests))
    run("generate", "fox", "--seed", "5")
    assert asked[0] == Request("fox", negative=BLANK, seed=5)


def test_sigmas_take_the_place_of_steps(run, pipeline):
    assert run("generate", "fox", "--sigmas", "1,0.9,0.5").code == 0
    assert pipeline.painted[0].sigmas == (1.0, 0.9, 0.5)


def test_machine_options_reach_load(run, pipeline):
    machine = ["--device", "cpu", "--dtype", "bfloat16", "--threads", "2", "--throughput"]
    assert run("generate", "fox", "--model", "folder/mini", *machine).code == 0
    wanted = {"device": "cpu", "dtype": "bfloat16", "threads": 2, "throughput": True}
    assert pipeline.loads == [{"model": "folder/mini", **wanted}]


def test_json_is_one_object_per_picture(run):
    done = run("generate", "一只红色的狐狸", "fox", "--seed", "7", "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [set(r) for r in records] == [{"path", "seed", "recipe", "timings"}] * 2
    for record in records:
        assert record["recipe"] == recipe.read(record["path"])
        assert record["seed"] == 7
        assert record["timings"]["denoise"] == 0.2
    assert "狐狸" in done.out


def test_names_follow_the_order_asked_not_the_order_finished(run, pipeline):
    pipeline.backwards = True
    Path("p.jsonl").write_text('{"prompt": "fox", "steps": 1}\n{"prompt": "Fox!", "steps": 2}\n')
    done = run("generate", "--prompts", "p.jsonl", "--seed", "7")
    assert done.out.splitlines() == ["outputs/fox-7-2.png", "outputs/fox-7.png"]
    assert recipe.read("outputs/fox-7-2.png")["steps"] == 2


def test_an_existing_file_is_never_replaced_in_silence(run):
    first = run("generate", "fox", "--seed", "7").paths[0]
    before = first.read_bytes()
    again = run("generate", "fox", "--seed", "7", "--steps", "1")
    third = run("generate", "fox", "--seed", "7", "--steps", "1")
    assert [again.out, third.out] == ["outputs/fox-7-2.png\n", "outputs/fox-7-3.png\n"]
    assert first.read_bytes() == before


def test_overwrite_replaces_but_not_within_a_run(run):
    run("generate", "fox", "--seed", "7")
    done = run("generate", "fox", "Fox", "--seed", "7", "--steps", "1", "--overwrite")
    assert done.out.splitlines() == ["outputs/fox-7.png", "outputs/fox-7-2.png"]
    assert recipe.read("outputs/fox-7.png")["steps"] == 1


def test_a_name_that_another_program_takes_meanwhile_is_left_alone(run, pipeline, monkeypatch):
    stream = pipeline.stream

    def slow(requests):
        Path("outputs/fox-7.png").write_text("theirs")
        yield from stream(requests)

    monkeypatch.setattr(pipeline, "stream", slow)
    assert run("generate", "fox", "--seed", "7").out == "outputs/fox-7-2.png\n"
    assert Path("outputs/fox-7.png").read_text() == "theirs"


@pytest.mark.parametrize("out", ["fox.png", "new/deep/Fox.PNG"])
def test_out_may_name_the_file_of_one_picture(run, out):
    done = run("generate", "fox", "--seed", "7", "--out", out)
    assert done.out == f"{out}\n"
    with Image.open(out) as image:
        assert image.size == (32, 16)


def test_out_file_is_replaced_only_on_request(run):
    Path("fox.png").write_text("mine")
    assert run("generate", "fox", "--out", "fox.png", "--overwrite").code == 0
    assert recipe.read("fox.png")["prompt"] == "fox"


@pytest.mark.parametrize("out", ["odd.png/", "there.png", "v1.5", "."])
def test_out_that_is_a_folder(run, out):
    Path("there.png").mkdir()
    done = run("generate", "fox", "owl", "--seed", "7", "--out", out)
    assert [path.parent for path in done.paths] == [Path(out)] * 2


def test_warnings_are_one_line_each_and_told_once(run, pipeline, monkeypatch):
    import warnings

    complete = pipeline.check

    def check(requests):
        warnings.warn("the negative prompt has no effect", stacklevel=2)
        return complete(requests)

    monkeypatch.setattr(pipeline, "check", check)
    done = run("generate", "fox", "--seed", "1")
    assert (done.code, done.err) == (0, "warning: the negative prompt has no effect\n")
