from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import danqing
from danqing.errors import ModelError, OutputError
from danqing.weights import files
from danqing.weights.export import export
from danqing.weights.files import read_json
from tests import tiny
from tests.weights.edit import edit, loaded, names_in, rename, same, weights_file

COMPONENTS = ["text_encoder", "transformer", "vae"]


def relative(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_copy_is_the_model(tiny_model: Path, tmp_path: Path) -> None:
    export(str(tiny_model), tmp_path / "out")
    assert relative(tmp_path / "out") == relative(tiny_model)
    for component in COMPONENTS:
        assert same(loaded(tmp_path / "out", component), loaded(tiny_model, component))


def test_the_copy_paints_the_same(
    tiny_model: Path, tiny_pipe: danqing.Pipeline, tmp_path: Path
) -> None:
    export(str(tiny_model), tmp_path / "out")
    request = danqing.Request("a fox", size=(32, 32))
    copy = danqing.load(str(tmp_path / "out"), device="cpu").generate(request).recipe
    assert copy["pixels_sha256"] == tiny_pipe.generate(request).recipe["pixels_sha256"]


def test_names_and_shapes_in_the_file_are_kept(tiny_model: Path, tmp_path: Path) -> None:
    export(str(tiny_model), tmp_path / "out")
    for component in COMPONENTS:
        ours, theirs = (
            load_file(weights_file(f, component)) for f in (tmp_path / "out", tiny_model)
        )
        assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


def test_the_dtype_is_the_files_own_or_the_one_asked_for(tiny_copy: Path, tmp_path: Path) -> None:
    export(str(tiny_copy), tmp_path / "half", "bfloat16")
    export(str(tmp_path / "half"), tmp_path / "again")
    for name in ("half", "again"):
        for component in COMPONENTS:
            dtypes = {t.dtype for t in load_file(weights_file(tmp_path / name, component)).values()}
            assert dtypes == {torch.bfloat16}


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_settings_name_the_dtype_of_the_weights(
    tiny_copy: Path, tmp_path: Path, key: str
) -> None:
    tiny.change(tiny_copy / "text_encoder" / "config.json", **{key: "float32"})
    export(str(tiny_copy), tmp_path / "same")
    export(str(tiny_copy), tmp_path / "half", "bfloat16")
    said = [read_json(tmp_path / n / "text_encoder" / "config.json") for n in ("same", "half")]
    assert [settings[key] for settings in said] == ["float32", "bfloat16"]
    assert said[0] == {**said[1], key: "float32"}


def test_old_names_and_what_is_skipped_are_kept(tiny_copy: Path, tmp_path: Path) -> None:
    rename(tiny_copy, "text_encoder", lambda name: name.replace(".language_model.", "."))
    extra = {"visual.a.weight": torch.rand(3, 2), "lm_head.weight": torch.rand(4, 2)}
    edit(tiny_copy, "text_encoder", lambda tensors: tensors.update(extra))
    export(str(tiny_copy), tmp_path / "out")
    assert names_in(tmp_path / "out", "text_encoder") == names_in(tiny_copy, "text_encoder")
    found = load_file(weights_file(tmp_path / "out", "text_encoder"))
    assert all(torch.equal(found[name], tensor) for name, tensor in extra.items())


def test_convolutions_over_time_are_kept(tiny_copy: Path, tmp_path: Path) -> None:
    name = "decoder.up_blocks.0.upsamplers.0.time_conv.weight"
    edit(tiny_copy, "vae", lambda tensors: tensors[name].fill_(0.5))
    export(str(tiny_copy), tmp_path / "out")
    assert load_file(weights_file(tmp_path / "out", "vae"))[name].unique().tolist() == [0.5]


def test_convolutions_over_time_have_the_published_shapes(tiny_model: Path) -> None:
    shapes = {n: tuple(t.shape) for n, t in load_file(weights_file(tiny_model, "vae")).items()}
    times = {n: s for n, s in shapes.items() if n.endswith("time_conv.weight")}
    assert times == {
        "encoder.down_blocks.3.time_conv.weight": (32, 32, 3, 1, 1),
        "encoder.down_blocks.5.time_conv.weight": (64, 64, 3, 1, 1),
        "decoder.up_blocks.0.upsamplers.0.time_conv.weight": (128, 64, 3, 1, 1),
        "decoder.up_blocks.1.upsamplers.0.time_conv.weight": (128, 64, 3, 1, 1),
    }


def test_shards_become_what_the_limit_says(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SHARD_BYTES", 2**20)
    export(str(tiny_model), tmp_path / "shards")
    monkeypatch.undo()
    export(str(tmp_path / "shards"), tmp_path / "one")
    assert len(list((tmp_path / "shards" / "vae").glob("*.safetensors"))) > 3
    assert relative(tmp_path / "one") == relative(tiny_model)
    assert same(loaded(tmp_path / "one", "vae"), loaded(tiny_model, "vae"))


def test_a_folder_in_use_is_refused_and_left_alone(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="out exists and is not an empty folder; choose another"):
        export(str(tiny_model), tmp_path / "out")
    assert relative(tmp_path / "out") == {"mine.txt"}


def test_a_file_in_the_way_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="not an empty folder"):
        export(str(tiny_model), tmp_path / "out")


def test_an_empty_folder_is_filled(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(str(tiny_model), tmp_path / "out")
    assert same(loaded(tmp_path / "out", "vae"), tiny.networks()["vae"])


def test_a_model_that_is_none_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        export(str(tmp_path / "nowhere"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_dtype_leaves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'int4' is unknown"):
        export(str(tiny_model), tmp_path / "out", "int4")
    assert not (tmp_path / "out").exists()
