"""Opening a folder: its parts belong together, and the whole fits in memory."""

import shutil
from pathlib import Path

import pytest
import torch

from danqing.errors import ModelError
from danqing.weights import plan
from danqing.weights.info import describe
from danqing.weights.model import Defaults, Model, build, check_parts, open_model, read_defaults
from tests import tiny

CPU = torch.device("cpu")


def opened(folder: Path) -> Model:
    return open_model("a name", folder, CPU, torch.float32)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(tiny_copy: Path, part: str) -> None:
    shutil.rmtree(tiny_copy / part)
    with pytest.raises(ModelError, match=f"lacks the folder '{part}'; a model has"):
        opened(tiny_copy)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json is missing"):
        check_parts(tmp_path)


def test_another_pipelines_folder_is_refused(tiny_copy: Path) -> None:
    tiny.change(tiny_copy / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(ModelError, match="is a FluxPipeline; danqing opens QwenImagePipeline"):
        opened(tiny_copy)


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        (
            "transformer",
            {"joint_attention_dim": 128},
            "text of width 128, the text encoder makes 64",
        ),
        (
            "transformer",
            {"in_channels": 32},
            "32 channels in and 64 out, the VAE's latents need 64",
        ),
        ("transformer", {"patch_size": 4}, "256 out, the VAE's latents need 64"),
        ("vae", {"z_dim": 4, "latents_mean": [0] * 4, "latents_std": [1] * 4}, "latents need 16"),
    ],
)
def test_parts_of_different_models_are_refused(
    tiny_copy: Path, path: str, values: dict, message: str
) -> None:
    tiny.change(tiny_copy / path / "config.json", **values)
    with pytest.raises(ModelError, match=message):
        build(tiny_copy)


def test_a_tokenizer_beyond_the_embeddings_is_refused(tiny_copy: Path) -> None:
    added = {f"<|extra_{n}|>": n for n in range(373, 460)}
    tiny.change(tiny_copy / "tokenizer" / "added_tokens.json", **{"<|endoftext|>": 373} | added)
    tiny.write(tiny_copy / "tokenizer" / "added_tokens.json", added)
    with pytest.raises(ModelError, match="the tokenizer has 460 tokens, the text encoder only 448"):
        opened(tiny_copy)


def test_a_model_carries_name_and_folder(tiny_model: Path) -> None:
    model = opened(tiny_model)
    assert (model.id, model.folder) == ("a name", tiny_model)
    assert model.defaults == Defaults(size=(64, 64), steps=2, guidance=2.0)
    assert not any(p.requires_grad for p in model.transformer.parameters())
    assert not model.vae.training


def test_defaults_without_a_card_are_qwen_images(tmp_path: Path) -> None:
    assert read_defaults(tmp_path) == Defaults((1328, 1328), 50, 4.0, ())


def test_sizes_of_the_card_are_pairs(tmp_path: Path) -> None:
    tiny.write(tmp_path / "danqing.json", {"sizes": [[64, 64], [96, 64]]})
    assert read_defaults(tmp_path).sizes == ((64, 64), (96, 64))


def test_an_unknown_key_of_the_card_is_refused(tmp_path: Path) -> None:
    tiny.write(tmp_path / "danqing.json", {"colour": "red"})
    with pytest.raises(ModelError, match=r"danqing.json: key 'colour' is not known"):
        read_defaults(tmp_path)


def test_what_does_not_fit_is_refused_before_reading(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in tiny_copy.rglob("*.safetensors"):
        path.write_bytes(b"never read")
    monkeypatch.setattr(plan, "free_memory", lambda device: 2**20)
    with pytest.raises(ModelError) as caught:
        opened(tiny_copy)
    for needle in ("MiB in float32", "transformer 2 MiB", "cpu has 1 MiB", "--dtype bfloat16"):
        assert needle in str(caught.value)


def test_half_precision_is_not_advised_twice(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "free_memory", lambda device: 0)
    with pytest.raises(ModelError, match="0 MiB free; a device with more memory"):
        plan.check(build(tiny_model), CPU, torch.bfloat16)


@pytest.mark.parametrize("free", [None, 2**60])
def test_what_fits_is_let_through(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, free: int | None
) -> None:
    monkeypatch.setattr(plan, "free_memory", lambda device: free)
    plan.check(build(tiny_model), CPU, torch.float32)


def test_free_memory_is_what_the_system_says() -> None:
    assert 2**20 < plan.free_memory(CPU) < 2**50
    assert plan.free_memory(torch.device("meta")) is None


def test_sizes_are_written_for_people() -> None:
    assert plan.gigabytes(3 * 2**30 + 2**29) == "3.5 GiB"
    assert plan.gigabytes(5 * 2**20) == "5 MiB"


def test_info_counts_without_reading_weights(tiny_copy: Path) -> None:
    sizes = {c.name: (c.parameters, c.bytes_on_disk) for c in describe(str(tiny_copy)).components}
    for component, network in tiny.networks().items():
        path = next((tiny_copy / component).glob("*.safetensors"))
        count = sum(p.numel() for p in network.parameters())
        assert sizes[component] == (count, path.stat().st_size)
        path.write_bytes(bytes(path.stat().st_size))
    found = describe(str(tiny_copy)).components
    assert [c.bytes_in_memory["bfloat16"] for c in found] == [2 * n for n, _ in sizes.values()]
    assert [c.kind for c in found] == ["TextEncoder", "Transformer", "VAE"]
