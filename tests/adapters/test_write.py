import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from danqing.adapters import formats
from danqing.adapters.adapter import Adapter, Sampling, Update
from danqing.adapters.write import NAMINGS, convert, kind_of, write
from danqing.errors import AdapterError, ModelError, OutputError
from tests.adapters import make

SAMPLING = Sampling(4, (1.0, 0.9, 0.75, 0.5, 0.0), 1.0)
PLAIN = ["lora", "dora"]  # what every naming can say


def written(adapter: Adapter, path: Path, naming: str) -> Adapter:
    write(adapter, path, naming)
    return formats.read(path)


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("kind", make.KINDS)
def test_what_is_written_is_read(tmp_path: Path, kind: str, naming: str) -> None:
    adapter, path = make.adapter(kind), tmp_path / "a.safetensors"
    peft_only = kind == "with_up_bias"
    if kind not in PLAIN and peft_only != (naming == "diffusers"):
        with pytest.raises(AdapterError, match=f"cannot be written in the {naming} naming"):
            write(adapter, path, naming)
        assert not path.exists()
    else:
        assert make.equal(written(adapter, path, naming), adapter)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("order", list(permutations(NAMINGS, 3)), ids="-".join)
def test_converted_around_it_is_the_same_file(
    tmp_path: Path, kind: str, order: tuple[str, ...]
) -> None:
    first = tmp_path / "0.safetensors"
    write(mixed(kind), first, order[0])
    source = first
    for step, naming in enumerate((*order[1:], order[0]), start=1):
        target = tmp_path / f"{step}.safetensors"
        convert(source, target, naming)
        source = target
    before, after = load_file(first), load_file(source)
    assert {n: t.dtype for n, t in before.items()} == {n: t.dtype for n, t in after.items()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert make.equal(formats.read(first), formats.read(source))


def mixed(kind: str) -> Adapter:
    """Ranks and alphas that differ from layer to layer, and scales that are no round numbers."""
    updates = {}
    for n, (rank, only) in enumerate([(3, "to_q"), (5, "mlp"), (8, "img_mod"), (5, "_in")]):
        for layer, update in make.adapter(kind, rank, n, only).updates.items():
            updates[layer] = replace(update, alpha=[8.0, 0.1, rank**0.5 * rank, 1.0][n])
    return Adapter(updates)


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes_stay(tmp_path: Path, naming: str, dtype: torch.dtype) -> None:
    cpu = torch.device("cpu")
    plain = make.adapter(only="attn")
    adapter = replace(plain, updates={n: u.to(cpu, dtype) for n, u in plain.updates.items()})
    assert make.equal(written(adapter, tmp_path / "a.safetensors", naming), adapter)


@pytest.mark.parametrize("naming", NAMINGS)
def test_an_alpha_that_is_not_stated_is_the_rank(tmp_path: Path, naming: str) -> None:
    plain = make.adapter(only="to_k")
    unstated = replace(plain, updates={n: replace(u, alpha=None) for n, u in plain.updates.items()})
    again = written(unstated, tmp_path / "a.safetensors", naming)
    assert {(u.alpha, u.scale) for u in again.updates.values()} == {(4.0, 1.0)}


@pytest.mark.parametrize("naming", NAMINGS)
def test_metadata(tmp_path: Path, naming: str) -> None:
    base = {"id": "mini", "fingerprint": "0123456789abcdef"}
    adapter = replace(
        make.adapter(rank=6, only="attn.to_q"),
        base=base,
        sampling=SAMPLING,
        metadata={"ss_output_name": "ink", "lora_adapter_metadata": "old", "danqing": "old"},
    )
    path = tmp_path / "a.safetensors"
    again = written(adapter, path, naming)
    assert (again.base, again.sampling) == (base, SAMPLING)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    own = json.loads(metadata["danqing"])
    assert (own["rank"], own["alpha"], own["targets"]) == ([6], [12.0], ["attn.to_q"])
    assert metadata["ss_output_name"] == "ink"
    assert ("lora_adapter_metadata" in metadata) == (naming == "diffusers")
    assert ("ss_network_dim" in metadata) == (naming == "kohya")


def test_the_same_adapter_gives_the_same_bytes(tmp_path: Path) -> None:
    adapter = replace(make.adapter(), metadata={f"key{n}": str(n) for n in range(20)})
    contents = set()
    for n in range(5):
        path = tmp_path / f"{n}.safetensors"
        write(adapter, path, "kohya")
        contents.add(path.read_bytes())
    assert len(contents) == 1
    with safe_open(tmp_path / "0.safetensors", framework="pt") as file:
        keys = list(file.metadata())
    assert set(adapter.metadata) <= set(keys)


def test_convert_can_add_base_sampling_and_dtype(tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write(make.adapter(), source, "kohya")
    base = {"id": "x", "fingerprint": "y"}
    convert(source, target, "diffusers", dtype="bfloat16", base=base, sampling=SAMPLING)
    found = formats.read(target)
    assert (found.base, found.sampling) == (base, SAMPLING)
    dtypes = {part.dtype for update in found.updates.values() for part in update.parts.values()}
    assert dtypes == {torch.bfloat16}


def test_an_existing_file_stays_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists; give another name, or --overwrite"):
        write(make.adapter(), path, "kohya")
    assert path.read_bytes() == b"mine"
    write(make.adapter(), path, "kohya", overwrite=True)
    assert make.equal(formats.read(path), make.adapter())


@pytest.mark.parametrize(
    ("name", "naming", "error"),
    [
        ("a.safetensors", "sd", "naming 'sd' is not known; choose diffusers, comfyui, kohya"),
        ("a.pt", "kohya", r"written as safetensors; name .*a.safetensors instead of .*a.pt"),
    ],
)
def test_wrong_names(tmp_path: Path, name: str, naming: str, error: str) -> None:
    with pytest.raises(AdapterError, match=error):
        write(make.adapter(), tmp_path / name, naming)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is no folder; create it first"):
        write(make.adapter(), tmp_path / "no" / "a.safetensors", "kohya")
    (tmp_path / "b.safetensors").mkdir()
    with pytest.raises(OutputError, match="exists; give another name"):
        write(make.adapter(), tmp_path / "b.safetensors", "kohya", overwrite=True)


def test_infinity_is_not_written(tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    write(Adapter({"proj_out": Update({"bias": torch.full((64,), 1e6)})}), source, "kohya")
    with pytest.raises(
        AdapterError, match=r"would hold NaN or infinity.*: lora_unet_proj_out\.diff_b"
    ):
        convert(source, tmp_path / "b.safetensors", "kohya", dtype="float16")
    assert list(tmp_path.iterdir()) == [source]


def test_an_unknown_dtype(tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    write(make.adapter(), source, "kohya")
    with pytest.raises(ModelError, match="dtype 'int4' is unknown"):
        convert(source, tmp_path / "b.safetensors", "kohya", dtype="int4")


def test_peft_has_dora_on_all_layers_or_none(tmp_path: Path) -> None:
    updates = {**make.adapter("dora", only="to_q").updates, **make.adapter(only="to_k").updates}
    with pytest.raises(AdapterError, match="a magnitude on 3 of 6 layers only"):
        write(Adapter(updates), tmp_path / "a.safetensors", "diffusers")


def test_a_bias_alone(tmp_path: Path) -> None:
    adapter = Adapter({"proj_out": Update({"bias": torch.ones(64)})})
    assert make.equal(written(adapter, tmp_path / "a.safetensors", "lightning"), adapter)


def test_kinds_of_layers() -> None:
    assert kind_of("transformer_blocks.12.attn.to_out.0") == "attn.to_out.0"
    assert kind_of("time_text_embed.timestep_embedder.linear_1") == (
        "time_text_embed.timestep_embedder.linear_1"
    )
