"""Shards: repeatable, resumable, and without the held-out pairs."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from recipes.mini import data as stage
from recipes.mini.files import read_json, write_atomic
from recipes.mini.shards import load_pictures


@pytest.fixture
def made(config, runs):
    stage.run(config, runs, None)
    return runs / "data"


def test_the_plan_is_drawn_whole_and_split(made):
    train, held = load_pictures(made, "train"), load_pictures(made, "held")
    counts = read_json(made / "manifest.json")["counts"]
    assert counts == {"train": len(train), "held": len(held), "concepts": 3}
    # 3 concepts: 4 plain each and 3 on each of 3 colours, but the red apple never on red
    assert len(train) + len(held) == 3 * 4 + 8 * 3
    assert len({r["id"] for r in train.records + held.records}) == 36
    assert train.images.shape == (len(train), 64, 64, 3)
    assert train.images.dtype == np.uint8


def test_held_out_pairs_are_in_no_training_shard(made):
    train, held = (
        {(r["concept"], r["background"]) for r in load_pictures(made, split).records}
        for split in ("train", "held")
    )
    assert held
    assert not train & held
    assert all(background != "white" for _, background in held)
    assert ("1f34e", "red") not in train | held


def test_a_record_tells_the_facts_and_the_captions(made):
    record = load_pictures(made, "train").records[0]
    keys = "id concept en zh style background captions_en captions_zh"
    assert list(record) == keys.split()
    assert record["captions_en"][0] == (
        f"a {record['en']} on a {record['background']} background, 3D render"
    )
    assert len(record["captions_en"]) == len(record["captions_zh"])


def test_the_same_settings_give_the_same_bytes(config, runs, made):
    before = {path.name: path.read_bytes() for path in made.glob("*.npz")}
    assert len(before) >= 4
    for path in made.iterdir():
        path.unlink()
    stage.run(config, runs, None)
    assert {path.name: path.read_bytes() for path in made.glob("*.npz")} == before


def test_only_missing_shards_are_made_again(config, runs, made, capsys):
    lost = made / "train-00001.npz"
    content = lost.read_bytes()
    lost.unlink()
    kept = (made / "train-00000.npz").stat().st_mtime_ns
    capsys.readouterr()
    stage.run(config, runs, None)
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if "already there" not in line] == [
        "data: train-00001.npz 8 pictures"
    ]
    assert lost.read_bytes() == content
    assert (made / "train-00000.npz").stat().st_mtime_ns == kept


def test_another_seed_draws_other_pictures(config, runs, made):
    before = load_pictures(made, "train")
    for path in made.iterdir():
        path.unlink()
    stage.run(replace(config, data=replace(config.data, seed=1)), runs, None)
    after = load_pictures(made, "train")
    assert [r["id"] for r in after.records] != [r["id"] for r in before.records]


def test_changed_settings_are_refused_and_leave_the_folder_alone(config, runs, made):
    before = {path: path.read_bytes() for path in made.iterdir()}
    other = replace(config, data=replace(config.data, plain_variants=5))
    with pytest.raises(ValueError, match="made with other settings; remove the folder or use"):
        stage.run(other, runs, None)
    assert {path: path.read_bytes() for path in made.iterdir()} == before


def test_the_manifest_names_the_licence_of_each_style(made):
    licences = read_json(made / "manifest.json")["licences"]
    assert licences["3d"]["licence"] == "MIT"
    assert licences["3d"]["artist"] == "Microsoft Fluent Emoji"


def test_the_sheet_shows_pictures_and_tells_their_captions(made):
    first = (made / "sheet.txt").read_text().splitlines()[0]
    place, id = first.split()
    records = {r["id"]: n for n, r in enumerate(load_pictures(made, "train").records)}
    image = load_pictures(made, "train").images[records[id]]
    sheet = np.asarray(Image.open(made / "sheet.png"))
    assert place == "1,1"
    np.testing.assert_array_equal(sheet[:64, :64], image)


def test_without_shards_the_reader_says_which_stage_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the stage `data` first"):
        load_pictures(tmp_path, "train")


def test_without_packages_the_stage_says_what_to_run(config, tmp_path):
    with pytest.raises(FileNotFoundError, match="run the stage `fetch` first"):
        stage.run(config, tmp_path, None)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644
