"""``danqing distill`` on the tiny model: what it prints, writes, refuses, and how it goes on."""

import json
import re
import shutil
from pathlib import Path

import pytest

from danqing.adapters import formats

SHORT = {
    "teacher_steps": 6, "trajectories": 6, "held_out": 2, "imitation": 3, "fake_start": 1,
    "matching": 2, "batch": 2, "rank": 2, "fake_rank": 2, "evaluate_every": 3, "sample_every": 0,
    "guidance": 3.0, "targets": '["image"]',
}  # fmt: skip


@pytest.fixture
def distil(run, tiny_model, tmp_path: Path):
    """Runs a short distillation into fast.safetensors, with more options."""
    (tmp_path / "prompts.txt").write_text("a red fox\n一只猫\n\na red fox\n雪\n", "utf-8")

    def distil(*more: object, steps: int = 2, **settings: object):
        own = [f"{name}={value}" for name, value in {**SHORT, **settings}.items()]
        given = ("--prompts", "prompts.txt", "--out", "fast.safetensors", "--model", tiny_model)
        sets = [part for one in own for part in ("--set", one)]
        return run("distill", *given, "--steps", steps, *sets, *map(str, more))

    return distil


def test_it_prints_the_file_and_tells_the_rest_on_stderr(distil) -> None:
    done = distil("--prompt", "a red fox", sample_every=3)
    assert done.code == 0, done.err
    assert done.out == "fast.safetensors\n"
    assert "the student's noise levels: 1, " in done.err
    assert "cosine " in done.err
    assert "step 6: all steps are made; peak memory " in done.err
    adapter = formats.read(Path("fast.safetensors"))
    assert adapter.sampling is not None
    assert (adapter.sampling.steps, adapter.sampling.guidance) == (2, 1.0)
    assert adapter.sampling.sigmas is not None
    assert adapter.sampling.sigmas[0] == 1.0
    page = Path("fast.run/report.html").read_text("utf-8")
    assert "Against the teacher" in page
    assert page.count('<img alt="samples of') >= 3


def test_every_event_is_a_line_of_json(distil) -> None:
    lines = [json.loads(line) for line in distil("--json").out.splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds[-1] == "finished"
    assert {"encoding", "travelled", "noded", "stepped", "evaluated", "saved"} <= set(kinds)
    assert [line["step"] for line in lines if line["event"] == "stepped"] == list(range(1, 7))


def test_the_same_command_goes_on_and_other_settings_are_refused(distil) -> None:
    distil()
    before = Path("fast.safetensors").read_bytes()
    again = distil()
    assert again.code == 0
    assert "goes on at step 6" in again.err
    assert Path("fast.safetensors").read_bytes() == before
    refused = distil(rank=4)
    assert refused.code == 2
    assert "rank was 2 and is 4" in refused.err
    Path("prompts.txt").write_text("something else\n", "utf-8")
    refused = distil()
    assert refused.code == 2
    assert "the prompts was " in refused.err


def test_a_few_step_teacher_is_refused(distil) -> None:
    distil()
    Path("fast.safetensors").rename("taught.safetensors")
    done = distil("--adapter", "taught.safetensors")
    assert done.code == 2
    assert "adapter taught.safetensors was made for 2 steps" in done.err
    assert "begin from it with --start" in done.err


def test_a_student_can_begin_from_a_few_step_adapter(distil) -> None:
    distil()
    Path("fast.safetensors").rename("taught.safetensors")
    shutil.rmtree("fast.run")
    done = distil("--start", "taught.safetensors", imitation=0, fake_start=0, matching=1, seed=9)
    assert done.code == 0, done.err
    before, after = (
        formats.read(Path(f"{name}.safetensors")).updates for name in ("taught", "fast")
    )
    layer = next(iter(before))
    old, new = (own[layer].parts["down"].float() for own in (before, after))
    assert (old - new).abs().max() < 0.01 < old.abs().max()
    refused = distil("--start", "taught.safetensors", rank=4)
    assert refused.code == 2


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--set", "nodes=[1.0, 0.5, 0.2]"), "nodes .* must be 2 noise levels from 1 down"),
        (("--set", "nodes=[1.0, 1.0]"), "must fall towards 0"),
        (("--adapter", "a:nan"), "must be FILE or FILE:STRENGTH"),
        (("--set", "sample_seeds=[36893488147419103232]"), "sample_seeds"),
        (("--set", "tau_low=0.6"), "tau_low 0.6 must be from 0.001 to 0.4"),
        (("--size", "60x64"), "size '60x64' must be two multiples of 16"),
        (("--set", "colour=1"), "setting 'colour' is not known"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(distil, more, told) -> None:
    done = distil(*more)
    assert done.code == 2
    assert re.search(told, done.err), done.err
    assert len(done.err.strip().splitlines()) == 1


def test_something_must_be_learnt(distil) -> None:
    done = distil(imitation=0, matching=0)
    assert done.code == 2
    assert "nothing would be learnt" in done.err


def test_prompts_must_be_there(run, tiny_model, tmp_path: Path) -> None:
    done = run("distill", "--model", tiny_model, "--out", "fast.safetensors")
    assert done.code == 2
    assert "this model comes without prompts" in done.err
    (tmp_path / "empty.txt").write_text("\n\n", "utf-8")
    for name, why in (("empty.txt", "holds no prompt"), ("none.txt", "cannot read none.txt")):
        done = run("distill", "--model", tiny_model, "--out", "f.safetensors", "--prompts", name)
        assert done.code == 2
        assert why in done.err
    assert not list(tmp_path.glob("f*"))


def test_a_plan_needs_neither_prompts_nor_a_place(run, tiny_model, tmp_path: Path) -> None:
    shown = run("distill", "--plan", "--model", tiny_model, "--batch", "2")
    assert shown.code == 0, shown.err
    for phase in ("trajectories", "imitation", "fake score", "matching"):
        assert phase in shown.out
    assert "parameters are trained, on 2 x 64x64 with 128 tokens of text" in shown.out
    told = json.loads(run("distill", "--plan", "--json", "--model", tiny_model, "--batch", "2").out)
    assert told["hours"] > 0
    assert told["learnt"] > told["plain"] > 0
    ways = next(phase for phase in told["phases"] if phase["name"] == "trajectories")
    assert ways["plain"] == 2 * (512 + 32) * 50
    assert told["peak"] == max(phase["memory"] for phase in told["phases"]) > told["weights"]
    assert not list(tmp_path.iterdir())
