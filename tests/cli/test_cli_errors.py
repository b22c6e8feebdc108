"""What goes wrong: one line, the right exit code, and no trace on the disk."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from danqing import cli, recipe


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no prompt; give one"),
        (["", "fox"], "prompt 1 '' is empty"),
        ([" "], "prompt ' ' is empty"),
        (["fox", "--count", "0"], "--count 0 must be a whole number of at least 1"),
        (["fox", "--count", "-3"], "--count -3 must be a whole number"),
        (["fox", "--count", "2", "--seed", "1", "--seed", "2"], "--count 2 with 2 seeds"),
        (["fox", "--steps", "0"], "--steps 0 must be"),
        (["fox", "--steps", "-4"], "--steps -4 must be"),
        (["fox", "--steps", "4.5"], "--steps 4.5 must be"),
        (["fox", "--steps", "four"], "--steps 'four' must be a whole number of at least 1"),
        (["fox", "--steps", "4", "--sigmas", "1"], "both --steps and --sigmas"),
        (["fox", "--sigmas", "0.5,1"], "--sigmas '0.5,1' must be falling"),
        (["fox", "--sigmas", "1,,0"], "--sigmas '1,,0' must be falling"),
        (["fox", "--seed", "-1"], "--seed -1 must be a whole number from 0 to"),
        (["fox", "--seed", str(2**63)], f"to {2**63 - 1}"),
        (["fox", "--seed", str(2**63 - 2), "--count", "3"], "passes the limit"),
        (["fox", "--seed", "7" * 5000], "must be a whole number"),
        (["fox", "--size", "128"], "--size '128' must be WIDTHxHEIGHT"),
        (["fox", "--size", "0x16"], "must be multiples of 16"),
        (["fox", "--size", "130x128"], "--size '130x128' must be multiples of 16"),
        (["fox", "--size", "4096x16"], "beyond the model"),
        (["fox", "--guidance", "nan"], "--guidance nan must be a number from 1"),
        (["fox", "--guidance", "0"], "--guidance 0 must be a number from 1"),
        (["fox", "--threads", "0"], "--threads 0 must be"),
        (["fox", "--model", "nope"], "model 'nope' is not known"),
        (["fox", "--out", "fox.jpg"], "pictures are written as PNG"),
        (["fox", "--count", "2", "--out", "fox.png"], "names one file, but 2 pictures"),
        (["fox", "--nope"], "No such option: --nope"),
        (["x" * 201], "a prompt of 201 tokens; at most 200"),
        (["fox", "x" * 201], "prompt 2: a prompt of 201"),
        (["fox", "--negative", "\udcff"], "is not valid Unicode text"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(refused, arguments, told):
    assert told in refused("generate", *arguments)


def test_the_nearest_words_are_offered(refused):
    assert "see `danqing --help`" in refused("generat")
    assert "see `danqing reproduce --help`" in refused("reproduce")


def test_out_is_checked_before_the_model_is_loaded(run, refused, pipeline):
    Path("file").write_text("")
    error = refused("generate", "fox", "--out", "file/deeper")
    assert "cannot write file/deeper: Not a directory; choose" in error
    assert "cannot write file: " in refused("generate", "fox", "--out", "file")
    Path("fox.png").write_text("mine")
    assert "fox.png exists; give another --out" in refused("generate", "fox", "--out", "fox.png")
    assert pipeline.loads == []


def test_a_folder_that_refuses_is_refused_early(run, refused, pipeline, monkeypatch):
    def refuse(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    error = refused("generate", "fox", "--out", "new/deep")
    assert "cannot write new/deep: Permission denied; choose a folder that you may write" in error
    assert pipeline.loads == []


def test_a_full_disk_leaves_no_half_file(run, monkeypatch):
    assert run("generate", "first", "--seed", "1").code == 0
    sync = os.fsync

    def full(descriptor):
        if os.path.isfile(f"/dev/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    done = run("generate", "fox", "--seed", "7")
    assert (done.code, done.out) == (2, "")
    assert "cannot write outputs/fox-7.png: No space left on device; free some space" in done.err
    assert os.listdir("outputs") == ["first-1.png"]


def test_ctrl_c_keeps_what_is_finished(run, pipeline):
    pipeline.fail_at = 2
    done = run("generate", "fox", "--seed", "7", "--count", "4")
    assert done.code == 130
    assert done.err == "interrupted: 2 of 4 pictures are finished and whole\n"
    assert done.out.splitlines() == ["outputs/fox-7.png", "outputs/fox-8.png"]
    assert sorted(os.listdir("outputs")) == ["fox-7.png", "fox-8.png"]
    assert [recipe.read(path)["seed"] for path in done.paths] == [7, 8]


def test_ctrl_c_before_the_first_leaves_no_folder(run, pipeline):
    pipeline.fail_at = 0
    assert run("generate", "fox", "--out", "a/b").code == 130
    assert os.listdir() == []


def test_ctrl_c_while_a_file_is_written(run, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    assert run("generate", "fox").code == 130
    assert os.listdir() == []


def test_a_fault_of_the_program_is_one_line_with_a_hint(run, pipeline):
    pipeline.fail_at, pipeline.failure = 0, RuntimeError("first\nsecond")
    done = run("generate", "fox", "--seed", "1")
    assert done.code == 1
    assert (
        done.err
        == "error: RuntimeError: first second; run `danqing --debug ...` again to see where\n"
    )


@pytest.mark.parametrize("way", ["option", "variable"])
def test_debug_shows_the_traceback(run, pipeline, monkeypatch, way):
    pipeline.fail_at, pipeline.failure = 0, RuntimeError("odd")
    if way == "variable":
        monkeypatch.setenv("DANQING_DEBUG", "1")
    done = run(*["--debug"][: way == "option"], "generate", "fox", "--seed", "1")
    assert done.code == 1
    assert "Traceback" in done.err
    assert done.err.endswith("error: RuntimeError: odd\n")


def test_main_leaves_with_the_code(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["danqing", "generate"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2


def test_a_reader_that_goes_away_is_no_fault():
    code = "import sys, danqing.cli as c; sys.exit(c.run(['--version']))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_terminal_without_chinese_still_gets_its_lines():
    code = "import danqing.cli as c; c._print_any_text(); import typer; typer.echo('狐')"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, check=True
    )
    assert done.stdout.split() == [b"\\u72d0"]
