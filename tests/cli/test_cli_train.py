"""``danqing train`` on the tiny model: what it prints, writes, refuses, and how it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from danqing.adapters import formats
from danqing.training.checkpoint import STATE
from danqing.training.settings import Settings, read
from danqing.weights.files import read_json
from tests.training.pictures import photo, save

SHORT = ("--steps", "4", "--batch", "2", "--rank", "2", "--set", "evaluate_every=2")


@pytest.fixture
def photos(run, tmp_path: Path) -> Path:
    for n in range(12):
        save(tmp_path / "photos" / f"{n}.png", photo((48, 32), n))
        (tmp_path / "photos" / f"{n}.txt").write_text(f"a thing {n}", "utf-8")
    return Path("photos")


@pytest.fixture
def train(run, photos, tiny_model):
    """Runs a short training into mine.safetensors, with more options."""

    def train(*more: object, kind: str = "lora", out: str = "mine.safetensors"):
        given = ("--data", photos, "--out", out, "--model", tiny_model, "--size", "48x32")
        return run("train", kind, *given, *SHORT, *map(str, more))

    return train


def test_it_prints_the_files_and_tells_the_rest_on_stderr(train) -> None:
    done = train("--prompt", "a thing", "--set", "sample_every=4", "--set", "sample_steps=2")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "mine.safetensors"
    assert set(done.out.splitlines()) <= {"mine.safetensors", "mine-best.safetensors"}
    assert "11 pictures to learn from, 1 kept apart; 11 of 48x32" in done.err
    assert "step 4: held-out loss " in done.err
    assert "against the base " in done.err
    assert f"step 4: samples in {Path('mine.run/samples')}\n" in done.err
    assert "step 4: all steps are made; peak memory " in done.err
    assert formats.read(Path("mine.safetensors")).updates
    page = Path("mine.run/report.html").read_text("utf-8")
    assert page.count('<img alt="samples of') == 2
    assert "danqing train lora" not in page  # the tests' own line started it


def test_every_event_is_a_line_of_json(train) -> None:
    lines = [json.loads(line) for line in train("--json").out.splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds[:2] == ["found", "planned"]
    assert kinds[-1] == "finished"
    assert [line["step"] for line in lines if line["event"] == "stepped"] == [1, 2, 3, 4]
    assert lines[1]["peak"] > lines[1]["weights"] > 0
    assert lines[-1]["paths"][0] == "mine.safetensors"


def test_the_saved_settings_start_the_same_training_from_anywhere(
    train, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train()
    before = Path("mine.safetensors").read_bytes()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = run("train", "lora", "--config", "../mine.run/settings.toml")
    assert again.code == 0, again.err
    assert "goes on at step 4" in again.err
    assert (tmp_path / "mine.safetensors").read_bytes() == before
    refused = run("train", "lora", "--config", "../mine.run/settings.toml", "--rank", "8")
    assert refused.code == 2
    assert "rank was 2 and is 8" in refused.err
    assert "rank = 2" in Path("../mine.run/settings.toml").read_text("utf-8")


def test_other_data_are_noticed(train, photos: Path) -> None:
    train()
    (photos / "3.txt").write_text("another caption", "utf-8")
    refused = train()
    assert refused.code == 2
    assert "the data was " in refused.err


def test_a_plan_needs_no_data(run, tiny_model, tmp_path: Path) -> None:
    shown = run("train", "lora", "--plan", "--model", tiny_model)
    assert shown.code == 0
    for part in ("weights", "adapter", "gradients", "optimiser", "activations", "peak"):
        assert part in shown.out
    assert "with checkpointing" in shown.out
    assert "parameters are trained, on 1 x " in shown.out
    assert ": it fits" in shown.out
    record = json.loads(run("train", "lora", "--plan", "--json", "--model", tiny_model).out)
    assert record["peak"] > record["weights"] > 0
    assert not list(tmp_path.iterdir())


def test_a_dry_run_checks_all_and_writes_nothing(train, photos: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = train("--dry-run")
    assert (done.code, done.out) == (0, "")
    assert "parameters are trained" in done.err
    (photos / "3.txt").unlink()
    (photos / "5.png").write_bytes(b"no picture")
    broken = train("--dry-run")
    assert broken.code == 2
    assert [line for line in broken.err.splitlines() if "3.png" in line]
    assert [line for line in broken.err.splitlines() if "5.png" in line]
    assert broken.err.splitlines()[-1].startswith("error: the training data have 2 faults, listed")
    (photos / "3.txt").write_text("x", "utf-8")
    assert sorted(tmp_path.rglob("*")) == before


MISTAKES = [
    ((), "no data; give a folder of pictures with --data"),
    (("--data", "photos"), "no place for the result; give --out"),
    (("--data", "photos", "--out", "mine.pt"), "give --out mine.safetensors"),
    (("--data", "photos", "--out", "taken.safetensors"), "taken.safetensors exists and was not"),
    (("--data", "photos", "--out", "photos/m.safetensors"), "would lie among the pictures"),
    (("--data", "photos", "--out", "m.safetensors", "--steps", "abc"), "steps 'abc' must be like"),
    (("--data", "photos", "--out", "m.safetensors", "--size", "50x50"), "the nearest: 48x48"),
    (("--data", "photos", "--out", "m.safetensors", "--set", "rank"), "must be NAME=VALUE"),
    (("--data", "photos", "--out", "m.safetensors", "--set", "ranks=4"), "'ranks' is not known"),
    (
        ("--data", "photos", "--out", "m.safetensors", "--rank", "4", "--set", "rank=4"),
        "--set rank and an option of the same setting; give one",
    ),
    (("--data", "nowhere", "--out", "m.safetensors"), "nowhere: is not there"),
    (("--data", "photos", "--out", "m.safetensors", "--device", "tpu"), "cannot be used here"),
    (("--data", "photos", "--out", "m.safetensors", "--few-step", "none.safetensors"), "none"),
    (("--data", "photos", "--out", "m.safetensors", "--config", "no.toml"), "cannot read no.toml"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[m[1][:30] for m in MISTAKES])
def test_mistakes(refused, photos, tiny_model, options, message) -> None:
    Path("taken.safetensors").write_bytes(b"someone's")
    assert message in refused("train", "lora", "--model", tiny_model, *options)


def test_a_kind_that_is_not(refused) -> None:
    assert "kind 'dreambooth' is not known; choose lora, full" in refused("train", "dreambooth")


def test_all_weights(train, run, tiny_model) -> None:
    done = train("--rate", "0.001", "--checkpointing", kind="full", out="tuned")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "tuned"
    assert read_json(Path("tuned/transformer/config.json")) == read_json(
        Path(tiny_model) / "transformer/config.json"
    )
    painted = run(
        "adapter",
        "extract",
        tiny_model,
        "tuned",
        "d.safetensors",
        "--rank",
        "4",
        "--naming",
        "comfyui",
    )
    assert painted.code == 0, painted.err
    again = train("--rate", "0.001", "--checkpointing", kind="full", out="tuned")
    assert again.code == 0, again.err
    Path("taken").mkdir()
    Path("taken/note.txt").write_text("mine")
    assert "taken exists and was not made" in train(kind="full", out="taken").err
    assert "give --out x" in train(kind="full", out="x.safetensors").err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_asked_to_stop_it_saves_and_goes_on(photos, tiny_model, number: int) -> None:
    options = ["--data", "photos", "--model", str(tiny_model), "--size", "48x32", *SHORT]
    line = [sys.executable, "-m", "danqing", "train", "lora", "--out", "mine.safetensors", *options]
    line += ["--steps", "100000", "--set", "save_every=0", "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as own:
        assert own.stdout is not None
        for text in own.stdout:
            if '"stepped"' in text:
                os.kill(own.pid, number)
                break
        rest, told = own.communicate(timeout=60)
    assert own.returncode == 130, told
    finished = json.loads(rest.splitlines()[-1])
    assert finished["reason"] == "asked to stop"
    assert f"interrupted: saved at step {finished['step']}; the same command goes on" in told
    assert (Path("mine.run") / STATE).exists()
    assert Path("mine.safetensors").exists()


def test_the_minutes_end_it(train) -> None:
    started = time.monotonic()
    done = train("--minutes", "0.0001", "--set", "steps=100000", "--set", "warm_up=1")
    assert done.code == 2  # steps stand in SHORT as well
    assert time.monotonic() - started < 60


def test_the_written_settings_say_the_same(tmp_path: Path) -> None:
    values = {
        "data": ["photos*3", {"path": "more", "repeats": 2, "weight": 0.5, "caption": "a \x7f\"b"}],
        "out": "mine.safetensors", "preset": "subject", "steps": Settings().steps, "rate": 1e-5,
        "size": [64, 48], "prompts": ["一只猫", "a 😀"], "minutes": 2.5, "dora": True,
    }  # fmt: skip
    own = read(None, {**values, "data": [absolute(tmp_path, entry) for entry in values["data"]]})
    from danqing.training.settings import toml

    path = tmp_path / "mine.run" / "settings.toml"
    path.parent.mkdir()
    path.write_text(toml(own, path.parent), "utf-8")
    found = read(path, {"out": own.out})
    assert found == own


def absolute(folder: Path, entry):
    if isinstance(entry, str):
        return str(folder / entry)
    return {**entry, "path": str(folder / entry["path"])}
