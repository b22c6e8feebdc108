"""`danqing reproduce`: equal, different, impossible."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from danqing import recipe


@pytest.fixture
def fox(run) -> Path:
    options = ["--seed", "7", "--sigmas", "1,0.5", "--negative", "dull", "--guidance", "2"]
    return run("generate", "一只红色的狐狸", *options).paths[0]


def changed(path: Path, **fields: object) -> str:
    """A copy with other fields in its recipe."""
    recipe.save_png(Image.open(path), {**recipe.read(path), **fields}, "changed.png")
    return "changed.png"


def test_equal(run, pipeline, fox):
    before = sorted(Path().rglob("*"))
    done = run("reproduce", fox)
    assert (done.code, done.out, done.err) == (0, f"{fox}: equal\n", "")
    assert pipeline.painted[1] == replace(pipeline.painted[0], sigmas=(1.0, 0.5, 0.0))
    assert sorted(Path().rglob("*")) == before, "nothing is written"


def test_it_asks_for_the_device_class_and_dtype_of_the_recipe(run, pipeline, fox):
    run("reproduce", fox)
    run("reproduce", fox, "--device", "cuda:1", "--dtype", "float16", "--threads", "1")
    wanted = {"device": "cpu", "dtype": "float32", "threads": None, "throughput": False}
    given = {"device": "cuda:1", "dtype": "float16", "threads": 1, "throughput": False}
    assert pipeline.loads[1:] == [{"model": "mini", **wanted}, {"model": "mini", **given}]


def test_different_says_how_far_and_what_differs_here(run, pipeline, fox):
    pipeline.shift, pipeline.profile = 3, {**pipeline.profile, "torch": "2.14", "id": "b2"}
    done = run("reproduce", fox)
    assert done.code == 1
    assert done.out.splitlines() == [
        f"{fox}: differs (max difference 3 of 255, PSNR 38.6 dB)",
        "  torch: 2.13 -> 2.14",
    ]


def test_different_on_the_same_profile(run, pipeline, fox):
    pipeline.shift = 1
    assert "the numerics profile is the same" in run("reproduce", fox).out


def test_one_that_differs_decides_the_exit_code(run, pipeline, fox):
    owl = run("generate", "owl", "--seed", "1").paths[0]
    other = changed(owl, prompt="an owl")
    done = run("reproduce", owl, other, fox)
    assert done.code == 1
    verdicts = [line.split(": ")[1].split()[0] for line in done.out.splitlines() if line[0] != " "]
    assert verdicts == ["equal", "differs", "equal"]


def test_json(run, pipeline, fox):
    pipeline.shift = 3
    equal_no = json.loads(run("reproduce", fox, "--json").out)
    assert (equal_no["equal"], equal_no["max_difference"]) == (False, 3)
    assert equal_no["psnr_db"] == pytest.approx(38.588, abs=1e-3)
    pipeline.shift = 0
    equal = json.loads(run("reproduce", fox, "--json").out)
    assert (equal["equal"], equal["max_difference"], equal["psnr_db"]) == (True, 0, None)
    assert equal["profile"] == {}


def test_out_keeps_the_new_pictures(run, fox):
    done = run("reproduce", fox, fox, "--out", "again")
    names = ["again/一只红色的狐狸-7.png", "again/一只红色的狐狸-7-2.png"]
    assert done.out.splitlines()[1::2] == [f"  new picture: {name}" for name in names]
    assert recipe.read(names[0]) == recipe.read(fox)


def test_a_file_that_was_changed_is_called_so(run, fox):
    image, chunks = Image.open(fox), PngInfo()
    image.load()
    chunks.add_text("danqing", image.text["danqing"])
    image.point(lambda value: value + 9).save("edited.png", pnginfo=chunks)
    done = run("reproduce", "edited.png")
    assert done.code == 1
    assert "the file was changed after danqing wrote it; the new picture is as the" in done.out
    image.resize((64, 64)).save("large.png", pnginfo=chunks)
    assert (
        "differs (the file is 64x64, its recipe gives 32x16)" in run("reproduce", "large.png").out
    )


def test_a_recompressed_file_is_equal(run, fox):
    chunks = PngInfo()
    chunks.add_text("danqing", Image.open(fox).text["danqing"])
    Image.open(fox).quantize(2).save("small.png", pnginfo=chunks)
    assert run("reproduce", "small.png").out == "small.png: equal\n"


def test_a_recipe_of_another_model_names_both(run, refused, pipeline, fox):
    pipeline.model.fingerprint = "fedcba9876543210"
    error = refused("reproduce", fox)
    assert "0123456789abcdef" in error
    assert "fedcba9876543210" in error
    assert "--model" in error


def test_the_model_may_have_moved(run, refused, pipeline, fox):
    moved = changed(fox, model={"id": "old/place", "fingerprint": pipeline.model.fingerprint})
    assert "model 'old/place' is not known" in refused("reproduce", moved)
    assert run("reproduce", moved, "--model", "folder/mini").code == 0


def test_a_recipe_that_the_model_cannot_paint_names_the_file(refused, fox):
    error = refused("reproduce", changed(fox, size=[4096, 16]))
    assert error.startswith("error: changed.png: size (4096, 16) is beyond")


def test_all_files_are_read_before_work_begins(run, refused, pipeline, fox):
    pipeline.loads.clear()
    Image.new("RGB", (16, 16)).save("plain.png")
    assert "plain.png carries no recipe" in refused("reproduce", fox, "plain.png")
    Path("text.png").write_text("hello")
    assert "text.png is not a PNG" in refused("reproduce", fox, "text.png")
    assert "cannot read none.png: No such file" in refused("reproduce", "none.png")
    assert pipeline.loads == []


def test_ctrl_c(run, pipeline, fox):
    pipeline.fail_at = 0
    assert run("reproduce", fox, "--out", "again").code == 130
    assert not Path("again").exists()
