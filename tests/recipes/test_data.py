"""The data stage: counts, licences and sheets."""

import numpy as np
import pytest
from PIL import Image

from recipes.mini import data as stage
from recipes.mini.files import read_json, write_atomic
from recipes.mini.sheet import SIZE
from recipes.mini.stream import Stream


def test_the_stage_tells_what_there_is_and_whose(config, runs):
    stage.run(config, runs, None)
    manifest = read_json(runs / "data" / "manifest.json")
    assert manifest["counts"] == {"concepts": 1527, "common": 473, "3d": 4}
    assert manifest["licences"]["3d"]["licence"] == "MIT"
    assert manifest["licences"]["3d"]["artist"] == "Microsoft Fluent Emoji"
    for split in ("train", "held"):
        first = Stream(config.data, runs, split).picture(0, SIZE)
        sheet = np.asarray(Image.open(runs / "data" / f"{split}.png"))
        np.testing.assert_array_equal(sheet[: SIZE[1], : SIZE[0]], first.image)
        line = (runs / "data" / f"{split}.txt").read_text().splitlines()[0]
        assert line.startswith("1,1 ")
        assert " | " in line


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644
