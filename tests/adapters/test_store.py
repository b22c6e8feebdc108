"""The adapters of an opened model: names, what is kept ready, and what is read anew."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import danqing
from danqing import Pipeline, Progress, Request
from danqing.adapters import formats
from danqing.adapters.adapter import Sampling
from danqing.adapters.published import LIGHTNING
from danqing.adapters.store import Store
from danqing.adapters.tables import Tables
from danqing.errors import AdapterError
from danqing.models.transformer import Transformer
from tests import tiny
from tests.adapters import files
from tests.adapters.files import ADD_V, IMG_MOD, TO_Q

SIZE = 4 * 16 * (64 + 64)  # bytes of a square layer's update, its rank filled up to 16


@pytest.fixture(scope="module")
def network() -> Transformer:
    return tiny.transformer()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    found: list[str] = []
    read = formats.read

    def counted(path: Path) -> Any:
        found.append(path.name)
        return read(path)

    monkeypatch.setattr(formats, "read", counted)
    return found


@pytest.fixture
def store(network: Transformer, tmp_path: Path) -> Store:
    return Store(network, "mini", tmp_path / "model")


def written(path: Path, *layers: str, rank: int = 4, **metadata: Any) -> Path:
    named = files.tensors(files.make("lora", layers or [TO_Q], rank=rank))
    return files.write(path, named, metadata)


def ready(store: Store) -> list[str]:
    return [state[0].name for state in store._ready]


# ---- names ------------------------------------------------------------------------------------


def test_a_name_can_be_given_and_taken_away(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors")
    store.add("ink", path)
    assert (store.names, store.find("ink")) == (["ink"], path)
    store.remove("ink")
    assert store.names == []
    with pytest.raises(AdapterError, match="adapter 'ink' is neither a file nor one of lightning"):
        store.find("ink")


def test_a_name_is_given_once(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors")
    store.add("ink", path)
    with pytest.raises(AdapterError, match=f"there is an adapter 'ink' already \\({path}\\)"):
        store.add("ink", written(tmp_path / "b.safetensors"))
    assert store.find("ink") == path


def test_what_was_never_added_cannot_be_removed(store: Store, tmp_path: Path) -> None:
    store.add("oil", written(tmp_path / "a.safetensors"))
    with pytest.raises(AdapterError, match=r"there is no adapter named 'ink'; there are \['oil'\]"):
        store.remove("ink")


def test_a_bad_file_gets_no_name(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(AdapterError, match="is truncated or not a safetensors file"):
        store.add("ink", path)
    with pytest.raises(AdapterError, match=r"cannot read adapter .*/b\.safetensors: No such"):
        store.add("ink", tmp_path / "b.safetensors")
    assert store.names == []
    store.add("ink", written(path))


def test_one_that_does_not_fit_is_refused_by_its_name(store: Store, tmp_path: Path) -> None:
    named = files.tensors({TO_Q: files.lora((128, 64), 3)})
    path = files.write(tmp_path / "a.safetensors", named)
    with pytest.raises(AdapterError, match=r"adapter ink does not fit mini: .* \[128, 64\], here"):
        store.add("ink", path)
    assert ready(store) == []


def test_the_models_own_adapters_have_names(store: Store, tmp_path: Path) -> None:
    own = written(tmp_path / "model" / "adapters" / "ink.safetensors")
    (own.parent / "README.md").write_text("none")
    store.add("oil", written(tmp_path / "a.safetensors"))
    assert store.names == ["ink", "oil"]
    assert store.find("ink") == own


def test_an_added_name_is_found_before_the_models_own(store: Store, tmp_path: Path) -> None:
    written(tmp_path / "model" / "adapters" / "ink.safetensors")
    path = written(tmp_path / "a.safetensors")
    store.add("ink", path)
    assert (store.names, store.find("ink")) == (["ink"], path)


def test_the_models_own_are_found_before_a_file_beside(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = written(tmp_path / "model" / "adapters" / "ink.safetensors")
    monkeypatch.chdir(tmp_path)
    written(Path("ink"))
    assert store.find("ink") == own
    assert store.find("./ink") == Path("ink")


def test_names_do_not_lead_out_of_the_models_folder(store: Store, tmp_path: Path) -> None:
    written(tmp_path / "model" / "ink.safetensors")
    with pytest.raises(AdapterError, match=r"adapter '\.\./ink' is neither a file nor one of"):
        store.find("../ink")


@pytest.mark.parametrize(
    "name",
    ["ink", "", "x\0y", "x" * 5000, "~no-such-user/ink", "a/b", "nowhere.safetensors"],
    ids=lambda name: name[:20],
)
def test_a_name_that_is_nowhere(store: Store, name: str) -> None:
    with pytest.raises(AdapterError) as caught:
        store.facts(name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["lightning-4", "lightning-8"])
def test_a_short_name_that_was_not_fetched(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AdapterError, match=f"fetch it with: danqing adapter fetch {name}$"):
        store.mix({name: 1.0})


def test_a_folder_is_an_adapter(store: Store, tmp_path: Path) -> None:
    written(tmp_path / "style" / "adapter_model.safetensors")
    store.add("ink", tmp_path / "style")
    assert ready(store) == ["adapter_model.safetensors"]


# ---- what is kept -----------------------------------------------------------------------------


def test_a_file_is_read_once(store: Store, tmp_path: Path, reads: list[str]) -> None:
    path = written(tmp_path / "a.safetensors")
    store.add("ink", path)
    store.add("oil", path)
    for _ in range(3):
        store.mix({"ink": 1.0, "oil": 0.5, str(path): 1.0})
        store.facts("ink")
    assert reads == ["a.safetensors"]


def test_the_one_not_used_for_longest_goes_first(
    network: Transformer, tmp_path: Path, reads: list[str]
) -> None:
    paths = {n: str(written(tmp_path / f"{n}.safetensors")) for n in "abcd"}
    store = Store(network, "mini", tmp_path, capacity=3 * SIZE)
    for name in "abc":
        store.mix({paths[name]: 1.0})
    store.mix({paths["a"]: 1.0})
    store.mix({paths["d"]: 1.0})
    assert ready(store) == ["c.safetensors", "a.safetensors", "d.safetensors"]
    store.mix({paths["a"]: 1.0})
    assert reads == [f"{name}.safetensors" for name in "abcd"]
    store.mix({paths["b"]: 1.0})
    assert reads[4:] == ["b.safetensors"]


def test_room_is_counted_in_bytes(network: Transformer, tmp_path: Path) -> None:
    store = Store(network, "mini", tmp_path, capacity=3 * SIZE)
    small = [str(written(tmp_path / f"{n}.safetensors")) for n in "ab"]
    large = str(written(tmp_path / "c.safetensors", TO_Q, ADD_V))
    store.mix(dict.fromkeys([*small, large], 1.0))
    assert ready(store) == ["b.safetensors", "c.safetensors"]
    assert store.facts(large).bytes == 2 * SIZE


def test_the_newest_stays_even_where_it_is_too_large(network: Transformer, tmp_path: Path) -> None:
    store = Store(network, "mini", tmp_path, capacity=1)
    paths = [str(written(tmp_path / f"{n}.safetensors")) for n in "ab"]
    mix = store.mix(dict.fromkeys(paths, 1.0))
    assert len(mix) == 2
    assert ready(store) == ["b.safetensors"]


def test_facts_survive_what_is_kept(network: Transformer, tmp_path: Path, reads: list[str]) -> None:
    store = Store(network, "mini", tmp_path, capacity=1)
    first, second = (str(written(tmp_path / f"{n}.safetensors")) for n in "ab")
    facts = store.facts(first)
    store.mix({second: 1.0})
    assert store.facts(first) == facts
    assert reads == ["a.safetensors", "b.safetensors"]
    assert facts.digest == hashlib.sha256(Path(first).read_bytes()).hexdigest()
    assert (facts.sampling, facts.bytes) == (None, SIZE)


# ---- files that change ------------------------------------------------------------------------


def value(store: Store, name: str) -> float:
    (bound, _), *_ = store.mix({name: 1.0})
    return float(bound.layers["blocks.0.img.qkv"].ups[0].weight[0, 0])


def test_a_changed_file_is_read_anew(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for number in (1.0, 2.0):
        parts = {"down": torch.ones(4, 64), "up": torch.full((64, 4), number)}
        files.write(path, files.tensors({TO_Q: parts}))
        os.utime(path, ns=(0, int(number)))
        if number == 1.0:
            store.add("ink", path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (value(store, "ink"), store.facts("ink").digest) == (number, digest)


def test_a_file_that_is_gone_is_told(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors")
    store.add("ink", path)
    path.unlink()
    with pytest.raises(AdapterError, match=f"cannot read adapter {path}: No such file or dir"):
        store.mix({"ink": 1.0})


def test_a_file_written_over_in_place_does_not_reach_what_is_in_use(
    store: Store, tmp_path: Path
) -> None:
    """As `cp` does it. A picture that is being painted keeps the adapter that it began with."""
    named = files.tensors(files.make("full", [TO_Q]))
    path = files.write(tmp_path / "a.safetensors", named)
    (bound, _), *_ = store.mix({str(path): 1.0})
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size - 4 * 64 * 64)
        file.write(torch.ones(64, 64).numpy().tobytes())
    kept = bound.layers["blocks.0.img.qkv"].wholes[0].update.parts["diff"]
    assert torch.equal(kept, named[f"{TO_Q}.diff"])


def peft_folder(folder: Path, alpha: float) -> str:
    named = files.tensors(files.make("lora", [TO_Q, IMG_MOD]), "peft")
    files.write(folder / "adapter_model.safetensors", named)
    config = {"r": 4, "lora_alpha": alpha}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def test_pefts_settings_are_a_part_of_the_adapter(
    store: Store, network: Transformer, tmp_path: Path
) -> None:
    """Two folders that differ in alpha alone are two adapters, with tables of their own."""
    one, two = (peft_folder(tmp_path / str(alpha), alpha) for alpha in (4, 40))
    tables = Tables(network)
    first, second = (tables.get([1.0], [store.mix({name: 1.0})]) for name in (one, two))
    assert not torch.equal(first.modulation.img[0], second.modulation.img[0])
    assert store.facts(one).digest != store.facts(two).digest


def test_changed_settings_are_read_anew(store: Store, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "style", 4)
    factors = []
    for alpha in (4, 40):
        (tmp_path / "style" / "adapter_config.json").write_text(
            f'{{"r": 4, "lora_alpha": {alpha}}}'
        )
        (bound, _), *_ = store.mix({folder: 1.0})
        factors.append(bound.layers["blocks.0.img.qkv"].ups[0].factor)
    assert factors == [1.0, 10.0]


# ---- mixes and sampling -----------------------------------------------------------------------


def test_a_mix_does_not_depend_on_the_order_asked(store: Store, tmp_path: Path) -> None:
    names = [str(written(tmp_path / f"{n}.safetensors", rank=n)) for n in range(1, 6)]
    strengths = {name: n / 2 - 1 for n, name in enumerate(names)}
    mix = store.mix(strengths)
    assert len(mix) == 4  # one has strength 0
    assert store.mix(dict(reversed(strengths.items()))) == mix


def test_one_file_under_two_names_counts_twice(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors")
    store.add("ink", path)
    mix = store.mix({"ink": 0.5, str(path): 0.25})
    assert [strength for _, strength in mix] == [0.25, 0.5]
    assert mix[0][0] is mix[1][0]


def test_sampling_is_what_the_file_says(store: Store, tmp_path: Path) -> None:
    made = written(tmp_path / "a.safetensors", danqing={"sampling": {"steps": 3}})
    plain = written(tmp_path / "b.safetensors")
    strengths = {str(made): 1.0, str(plain): 1.0}
    assert store.samplings(strengths) == {str(made): Sampling(3)}


def test_sampling_of_a_published_file_is_known(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "Qwen-Image-Lightning-8steps-V1.1.safetensors")
    assert store.facts(str(path)).sampling == LIGHTNING[8]


def test_the_files_own_word_counts_for_more_than_its_name(store: Store, tmp_path: Path) -> None:
    name = "Qwen-Image-Lightning-8steps-V1.1.safetensors"
    path = written(tmp_path / name, danqing={"sampling": {"steps": 3}})
    assert store.facts(str(path)).sampling == Sampling(3)


def test_a_published_file_is_known_though_it_was_read_by_another_name(
    store: Store, tmp_path: Path
) -> None:
    """The hub's cache links names to files of other names."""
    blob = written(tmp_path / "blob")
    link = tmp_path / "Qwen-Image-Lightning-8steps-V1.1.safetensors"
    link.symlink_to(blob)
    assert store.facts(str(blob)).sampling is None
    assert store.facts(str(link)).sampling == LIGHTNING[8]


@pytest.mark.parametrize("strength", [0.0, -1.0])
def test_an_adapter_that_is_taken_away_brings_no_sampling(
    store: Store, tmp_path: Path, strength: float
) -> None:
    path = written(tmp_path / "a.safetensors", danqing={"sampling": {"steps": 3}})
    assert store.samplings({str(path): strength}) == {}


# ---- packs ------------------------------------------------------------------------------------


@pytest.fixture
def narrow(tiny_model: Path, tmp_path: Path) -> Pipeline:
    """Four adapters of which two have room."""
    pipe = danqing.load(str(tiny_model), device="cpu")
    for name in "abcd":
        layer = f"transformer_blocks.{ord(name) - ord('a')}.attn.to_q"
        path = written(tmp_path / f"{name}.safetensors", layer if name != "d" else ADD_V)
        pipe.adapters.add(name, path)
    pipe.adapters.capacity = 2 * SIZE
    return pipe


def small(*names: str) -> Request:
    adapters = dict.fromkeys(names, 1.0)
    return Request("a", size=(32, 32), steps=1, guidance=1.0, adapters=adapters)


def packs(pipe: Pipeline, requests: list[Request]) -> list[tuple[int, ...]]:
    return [e.indices for e in pipe.stream(requests) if isinstance(e, Progress)]


def test_a_pack_holds_no_more_adapters_than_have_room(narrow: Pipeline) -> None:
    assert packs(narrow, [small("a"), small("b"), small(), small("a")]) == [(0, 1, 2, 3)]
    assert packs(narrow, [small("a"), small("b"), small("c"), small("d")]) == [(0, 1), (2, 3)]
    assert packs(narrow, [small("a", "b"), small("b"), small("c")]) == [(0, 1), (2,)]
    assert packs(narrow, [small("a", "b", "c"), small("a"), small()]) == [(0,), (1, 2)]


def test_pictures_do_not_depend_on_the_room(narrow: Pipeline) -> None:
    requests = [small(*names) for names in ("a", "bc", "abcd", "", "d", "ad")]
    split = [r.recipe["pixels_sha256"] for r in narrow.generate(requests)]
    narrow.adapters.capacity = 2**30
    assert [r.recipe["pixels_sha256"] for r in narrow.generate(requests)] == split
    assert len(set(split)) == len(requests)
