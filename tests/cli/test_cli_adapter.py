"""`danqing adapter`: every command on real files of the tiny model, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from danqing.adapters.adapter import Adapter, Sampling, Update, delta
from danqing.adapters.formats import read
from danqing.adapters.info import describe
from danqing.adapters.store import digest
from danqing.adapters.write import NAMINGS, write
from danqing.weights.fingerprint import fingerprint
from tests.cli.conftest import LAYERS, lora, write_lora

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
FEW = Sampling(4, (1.0, 0.9, 0.75, 0.5, 0.0), 1.0)


@pytest.fixture
def ink(run) -> str:
    return write_lora("ink.safetensors")


@pytest.fixture
def paper(run) -> str:
    return write_lora("paper.safetensors", seed=1, rank=4, alpha=2.0)


@pytest.fixture
def tuned(run, tiny_model) -> str:
    """The tiny model with other weights: a change of rank 2 in three layers."""
    shutil.copytree(tiny_model, "tuned")
    tensors = load_file(f"tuned/{WEIGHTS}")
    for layer, update in lora().updates.items():
        tensors[f"{layer}.weight"] += delta(update)
    save_file(tensors, f"tuned/{WEIGHTS}")
    return "tuned"


def lines(text: str) -> list[str]:
    """With single spaces."""
    return [" ".join(line.split()) for line in text.splitlines()]


# ---- info -------------------------------------------------------------------------------------


def test_info_has_a_row_for_each_kind_of_layer(run, ink):
    done = run("adapter", "info", ink)
    assert (done.code, done.err) == (0, "")
    told = lines(done.out)
    assert "adapter ink.safetensors" in told
    assert "naming ComfyUI (diffusion_model.*, lora_down/lora_up)" in told
    assert f"size {Path(ink).stat().st_size / 1024:.1f} KiB, 6 tensors in float32" in told
    assert f"sha256 {digest(Path(ink))[:16]}" in told
    norms = {group.target: f"{group.norm:#.3g}" for group in describe(ink).groups}
    assert "target kind blocks layers rank alpha norm" in told
    assert f"attn.to_q lora 0 1 2 4 {norms['attn.to_q']}" in told
    assert f"img_mlp.net.0.proj lora 2 1 2 4 {norms['img_mlp.net.0.proj']}" in told
    assert f"img_in lora - 1 2 4 {norms['img_in']}" in told
    assert "total 3" in told
    assert not [line for line in told if line.startswith(("base", "sampling", "odd"))]


def test_info_tells_base_sampling_and_words_of_other_tools(run):
    base = {"id": "some/model", "fingerprint": "0123456789abcdef"}
    metadata = {"ss_output_name": "ink [bold]wash[/bold] :fox:\x1b[2J", "ss_secret": "no"}
    found = lora(sampling=FEW)
    kept = Adapter(found.updates, base=base, sampling=FEW, metadata=metadata)
    write(kept, Path("ink.safetensors"), "kohya")
    told = lines(run("adapter", "info", "ink.safetensors").out)
    assert "base some/model, fingerprint 0123456789abcdef" in told
    assert "sampling 4 steps at 1, 0.9, 0.75, 0.5, guidance 1" in told
    assert "ss_output_name ink [bold]wash[/bold] :fox:\ufffd[2J" in told
    assert not [line for line in told if "ss_secret" in line]


def test_info_of_ranks_and_blocks_that_vary(run):
    updates = {}
    for block, rank in enumerate((4, 8, 4, 8)):
        parts = {"down": torch.ones(rank, 64), "up": torch.ones(64, rank)}
        updates[f"transformer_blocks.{block}.attn.to_q"] = Update(parts, float(rank) / 2)
    for block in range(0, 20, 2):
        parts = {"down": torch.ones(block + 1, 64), "up": torch.zeros(64, block + 1)}
        updates[f"transformer_blocks.{block}.attn.to_k"] = Update(parts, 1.5)
    parts = {"down": torch.ones(1, 64), "up": torch.ones(64, 1), "magnitude": torch.ones(64)}
    updates["txt_in"] = Update(parts, 1.0)
    updates["transformer_blocks.1.attn.norm_q"] = Update({"diff": torch.full((32,), 3.0)})
    write(Adapter(updates), Path("mixed.safetensors"), "comfyui")
    told = lines(run("adapter", "info", "mixed.safetensors").out)
    # Norms of 0.5 * 64 * rank: 128 and 256, in the root mean square.
    assert "attn.to_q lora 0-3 4 4, 8 2, 4 202" in told
    assert "attn.to_k lora 0, 2, ..., 18 10 1..19 1.5 0.00" in told
    assert "txt_in dora - 1 1 1 -" in told
    assert "attn.norm_q full 1 1 - - 17.0" in told
    assert told[-1].startswith("odd: 10 of 16 layers have an update of zero (transformer_blocks.0")


def test_info_of_an_alpha_that_is_not_stated(run):
    named = {}
    for layer, update in lora().updates.items():
        named[f"transformer.{layer}.lora_A.weight"] = update.parts["down"]
        named[f"transformer.{layer}.lora_B.weight"] = update.parts["up"]
    save_file(named, "plain.safetensors")
    told = lines(run("adapter", "info", "plain.safetensors").out)
    assert [line for line in told if line.startswith("attn.to_q lora 0 1 2 - ")]
    assert told[-1] == "odd: alpha is not stated: the scale is 1, as other tools take it"


def test_info_fits_a_terminal_of_80_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    name = "time_text_embed.timestep_embedder.linear_1"
    updates = {name: Update({"down": torch.ones(16, 256), "up": torch.ones(64, 16)}, 16.0)}
    write(Adapter(updates), Path("time.safetensors"), "comfyui")
    out = run("adapter", "info", "time.safetensors").out
    assert max(map(len, out.splitlines())) <= 80
    row = next(line for line in out.splitlines() if "time_text_embed" in line)
    assert row.split()[1:] == ["lora", "-", "1", "16", "16", "2.05e+03"]
    assert "linear_1" in out, "folded, not cut"


def test_info_as_json(run, paper):
    found = json.loads(run("adapter", "info", paper, "--json").out)
    assert set(found) == set(describe(paper).__dict__)
    assert found["path"] == "paper.safetensors"
    assert found["sha256"] == digest(Path(paper))
    assert (found["base"], found["sampling"], found["odd"]) == (None, None, [])
    assert found["groups"][0]["target"] == "attn.to_q"
    assert (found["groups"][0]["ranks"], found["groups"][0]["alphas"]) == ([4], [2.0])


def test_info_of_a_folder(run, ink):
    Path("folder").mkdir()
    Path(ink).rename("folder/pytorch_lora_weights.safetensors")
    assert "adapter folder" in lines(run("adapter", "info", "folder").out)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none.safetensors", "adapter 'none.safetensors' is neither a file nor one of lightning-4"),
        ("text.safetensors", "adapter text.safetensors is truncated or not a safetensors file"),
        ("zip.pt", "adapter zip.pt is a PyTorch zip, which can run code when it is opened"),
        ("empty", "empty is a folder without adapter_model.safetensors"),
        ("model.safetensors", "has 1 keys that match no layer of Qwen-Image"),
    ],
)
def test_what_is_no_adapter_is_refused(refused, name, told):
    Path("text.safetensors").write_text("hello")
    Path("zip.pt").write_bytes(b"PK\x03\x04rest of the file")
    Path("empty").mkdir()
    save_file({"weight": torch.ones(2, 2)}, "model.safetensors")
    assert told in refused("adapter", "info", name)


# ---- convert ----------------------------------------------------------------------------------


@pytest.mark.parametrize("naming", NAMINGS)
def test_convert_there_and_back(run, ink, naming):
    done = run("adapter", "convert", ink, "there.safetensors", "--naming", naming)
    assert (done.code, done.out, done.err) == (0, "there.safetensors\n", "")
    back = ["there.safetensors", "back.safetensors", "--naming", "comfyui"]
    assert run("adapter", "convert", *back).code == 0
    before, after = load_file(ink), load_file("back.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_convert_notes_dtype_base_and_sampling(run, ink, tiny_model):
    notes = ["--dtype", "bfloat16", "--base", tiny_model, "--sigmas", "1,0.5", "--guidance", "2"]
    assert run("adapter", "convert", ink, "new.safetensors", "--naming", "kohya", *notes).code == 0
    found = describe("new.safetensors")
    assert found.dtypes == ["bfloat16"]
    assert found.base == {"id": str(tiny_model), "fingerprint": fingerprint(tiny_model)}
    assert found.sampling == Sampling(2, (1.0, 0.5, 0.0), 2.0)


@pytest.mark.parametrize(
    ("options", "made"),
    [
        (["--steps", "8"], Sampling(8)),
        (["--steps", "8", "--guidance", "1"], Sampling(8, None, 1.0)),
        (["--sigmas", "1,0.9,0.75,0.5,0"], Sampling(4, FEW.sigmas)),
        ([], FEW),
    ],
)
def test_convert_notes_sampling(run, options, made):
    write_lora("few.safetensors", sampling=FEW)
    command = ["adapter", "convert", "few.safetensors", "new.safetensors", "--naming", "kohya"]
    assert run(*command, *options).code == 0
    assert read(Path("new.safetensors")).sampling == made


def test_convert_replaces_only_on_request(run, refused, ink):
    Path("there.safetensors").write_text("mine")
    command = ["adapter", "convert", ink, "there.safetensors", "--naming", "kohya"]
    assert "there.safetensors exists; give another name, or --overwrite" in refused(*command)
    assert Path("there.safetensors").read_text() == "mine"
    assert run(*command, "--overwrite").code == 0
    assert run("adapter", "convert", ink, ink, "--naming", "kohya", "--overwrite").code == 0
    assert read(Path(ink)).naming.startswith("kohya")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("none.safetensors new.safetensors --naming kohya", "is neither a file nor one of"),
        ("ink.safetensors new.safetensors", "Missing option '--naming'"),
        ("ink.safetensors new.safetensors --naming a1111", "naming 'a1111' is not known; choose"),
        ("ink.safetensors new.pt --naming kohya", "adapters are written as safetensors"),
        ("ink.safetensors no/new.safetensors --naming kohya", "no is no folder; create it first"),
        ("ink.safetensors new.safetensors --naming kohya --dtype int8", "dtype 'int8' is unknown"),
        ("ink.safetensors new.safetensors --naming kohya --base nope", "model 'nope' is neither"),
        ("ink.safetensors new.safetensors --naming kohya --base .", "is not a whole model folder"),
        ("ink.safetensors new.safetensors --naming kohya --steps 0", "--steps 0 must be"),
        ("ink.safetensors new.safetensors --naming kohya --sigmas 0.5,1", "must be falling"),
        ("ink.safetensors new.safetensors --naming kohya --steps 2 --sigmas 1,0.5", "both --steps"),
        ("ink.safetensors new.safetensors --naming kohya --steps 2 --guidance 0", "--guidance 0"),
        ("ink.safetensors new.safetensors --naming kohya --guidance 1", "--guidance 1 alone; give"),
        ("whole.safetensors new.safetensors --naming diffusers", "has no place for all of it"),
    ],
)
def test_convert_refuses(refused, ink, options, told):
    whole = {"img_in": Update({"diff": torch.ones(64, 64)})}
    write(Adapter(whole), Path("whole.safetensors"), "comfyui")
    assert told in refused("adapter", "convert", *options.split())


# ---- merge ------------------------------------------------------------------------------------


def test_merge_writes_a_model_and_tells_what_rounding_took(run, tiny_model, ink, paper):
    adapters = ["--adapter", f"{ink}:0.5", "--adapter", paper]
    done = run("adapter", "merge", "--model", tiny_model, *adapters, "--out", "merged")
    assert (done.code, done.out) == (0, "merged\n")
    assert done.err == "3 tensors changed; rounding took less than 0.01 % of the update\n"
    before, after = load_file(tiny_model / WEIGHTS), load_file(f"merged/{WEIGHTS}")
    one, other = read(Path(ink)).updates, read(Path(paper)).updates
    for name in before:
        layer = name.removesuffix(".weight")
        change = 0.5 * delta(one[layer]) + delta(other[layer]) if layer in LAYERS else 0.0
        torch.testing.assert_close(after[name], before[name] + change)


def test_merge_in_another_dtype(run, tiny_model, ink):
    options = ["--adapter", ink, "--out", "merged", "--dtype", "bfloat16"]
    done = run("adapter", "merge", "--model", tiny_model, *options)
    assert (done.code, done.out) == (0, "merged\n")
    lost = float(done.err.removeprefix("3 tensors changed; rounding took ").split()[0])
    assert 0.01 < lost < 1
    assert {t.dtype for t in load_file(f"merged/{WEIGHTS}").values()} == {torch.bfloat16}


def test_merge_into_coarse_weights_only_on_request(run, refused, tiny_copy, ink):
    coarse = {n: t.to(torch.float8_e4m3fn) for n, t in load_file(tiny_copy / WEIGHTS).items()}
    save_file(coarse, tiny_copy / WEIGHTS)
    command = ["adapter", "merge", "--model", tiny_copy, "--adapter", ink, "--out", "merged"]
    error = refused(*command)
    assert "float8_e4m3fn" in error
    assert "--allow-quantised" in error
    done = run(*command, "--allow-quantised")
    assert (done.code, done.out) == (0, "merged\n")
    kept = load_file(f"merged/{WEIGHTS}")["img_in.weight"]
    assert kept.dtype == torch.float8_e4m3fn


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--adapter ink.safetensors --out new", "Missing option '--model'"),
        ("--model MODEL --out new", "Missing option '--adapter'"),
        ("--model MODEL --adapter ink.safetensors", "Missing option '--out'"),
        ("--model nope --adapter ink.safetensors --out new", "model 'nope' is neither"),
        ("--model MODEL --adapter none --out new", "adapter 'none' is neither a file"),
        ("--model MODEL --adapter ink.safetensors:x --out new", "strength 'x' must be a number"),
        ("--model mini --adapter ink.safetensors --out new", "does not fit mini: "),
        ("--model MODEL --adapter ink.safetensors --out full", "exists and is not an empty folder"),
        ("--model MODEL --adapter ink.safetensors --out new --dtype int8", "dtype 'int8' is"),
        (
            "--model MODEL --adapter few.safetensors --adapter two.safetensors --out new",
            "merge one",
        ),
    ],
)
def test_merge_refuses(refused, tiny_model, ink, options, told):
    Path("full").mkdir()
    Path("full/mine.txt").touch()
    write_lora("few.safetensors", sampling=FEW)
    write_lora("two.safetensors", sampling=Sampling(2))
    assert told in refused("adapter", "merge", *options.replace("MODEL", str(tiny_model)).split())


# ---- extract ----------------------------------------------------------------------------------


def test_extract_finds_the_change(run, tiny_model, tuned):
    done = run("adapter", "extract", tiny_model, tuned, "found.safetensors", "--rank", "2")
    assert (done.code, done.out) == (0, "found.safetensors\n")
    assert done.err.startswith("kept 100.00 % of the difference's energy; least in ")
    found = read(Path("found.safetensors"))
    assert found.naming.startswith("diffusers")
    assert found.base == {"id": str(tiny_model), "fingerprint": fingerprint(tiny_model)}
    for layer, update in lora().updates.items():
        torch.testing.assert_close(delta(found.updates[layer]), delta(update), atol=1e-5, rtol=1e-4)


def test_extract_tells_what_a_small_rank_leaves_out(run, tiny_model, tuned):
    options = ["--rank", "1", "--naming", "kohya", "--dtype", "float16", "--json"]
    done = run("adapter", "extract", tiny_model, tuned, "found.safetensors", *options)
    record = json.loads(done.out)
    assert record["path"] == "found.safetensors"
    assert record["layers"].keys() == LAYERS.keys()
    assert 0.5 < record["energy"] < 0.9
    worst = sorted(record["layers"].items(), key=lambda pair: pair[1])
    named = ", ".join(f"{layer} {share:.2%}".replace("%", " %") for layer, share in worst)
    assert done.err == (
        f"kept {100 * record['energy']:.2f} % of the difference's energy; least in {named}\n"
    )
    found = describe("found.safetensors")
    assert (found.naming.split()[0], found.dtypes) == ("kohya", ["float16"])


def test_extract_of_biases_only(run, tiny_model, tuned):
    tensors = load_file(tiny_model / WEIGHTS)
    tensors["img_in.bias"] += 1
    save_file(tensors, f"tuned/{WEIGHTS}")
    options = ["--rank", "1", "--naming", "comfyui"]
    done = run("adapter", "extract", tiny_model, tuned, "found.safetensors", *options)
    assert (done.code, done.err) == (0, "kept 100.00 % of the difference's energy\n")


def test_extract_replaces_only_on_request(run, refused, tiny_model, tuned):
    Path("found.safetensors").write_text("mine")
    command = ["adapter", "extract", tiny_model, tuned, "found.safetensors", "--rank", "2"]
    assert "found.safetensors exists; give another name, or --overwrite" in refused(*command)
    assert run(*command, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("MODEL tuned new.safetensors", "Missing option '--rank'"),
        ("MODEL tuned new.safetensors --rank 0", "--rank 0 must be a whole number of at least 1"),
        ("MODEL tuned new.safetensors --rank many", "--rank 'many' must be a whole number"),
        ("MODEL tuned new.safetensors --rank 2 --naming x", "naming 'x' is not known"),
        ("MODEL tuned new.safetensors --rank 2 --dtype x", "dtype 'x' is unknown"),
        ("MODEL tuned new.bin --rank 2", "adapters are written as safetensors"),
        ("MODEL nope new.safetensors --rank 2", "model 'nope' is neither"),
        ("nope tuned new.safetensors --rank 2", "model 'nope' is neither"),
        ("MODEL MODEL new.safetensors --rank 2", "nothing to extract"),
        ("MODEL mini new.safetensors --rank 2", "extract needs two versions of one model"),
    ],
)
def test_extract_refuses(refused, tiny_model, tuned, options, told):
    arguments = options.replace("MODEL", str(tiny_model)).split()
    assert told in refused("adapter", "extract", *arguments)


def test_mistakes_are_told_before_the_work(refused, tiny_model, tuned, monkeypatch):
    """A difference of large models takes minutes."""

    def work(*_, **__):
        raise AssertionError

    monkeypatch.setattr("danqing.adapters.extract.differences", work)
    Path("there.safetensors").touch()
    for target, options in (
        ("there.safetensors", []),
        ("new.bin", []),
        ("no/new.safetensors", []),
        ("new.safetensors", ["--naming", "x"]),
        ("new.safetensors", ["--dtype", "x"]),
    ):
        refused("adapter", "extract", tiny_model, tuned, target, "--rank", "2", *options)


# ---- combine ----------------------------------------------------------------------------------


def test_combine_is_exact(run, ink, paper):
    adapters = ["--adapter", ink, "--adapter", f"{paper}:-0.5"]
    done = run("adapter", "combine", *adapters, "--out", "both.safetensors")
    assert (done.code, done.out, done.err) == (0, "both.safetensors\n", "")
    both = read(Path("both.safetensors"))
    assert both.naming.startswith("diffusers")
    one, other = read(Path(ink)).updates, read(Path(paper)).updates
    for layer, update in both.updates.items():
        assert update.rank == 6
        wanted = delta(one[layer]) - 0.5 * delta(other[layer])
        torch.testing.assert_close(delta(update), wanted)


def test_combine_at_a_rank_tells_what_it_keeps(run, ink, paper):
    adapters = ["--adapter", ink, "--adapter", paper, "--out", "both.safetensors"]
    options = ["--rank", "3", "--naming", "kohya", "--dtype", "bfloat16", "--json"]
    done = run("adapter", "combine", *adapters, *options)
    record = json.loads(done.out)
    kept = record["layers"].values()
    assert record["path"] == "both.safetensors"
    assert (record["least"], record["mean"]) == (min(kept), pytest.approx(sum(kept) / 3))
    assert done.err == (
        f"kept {100 * record['mean']:.2f} % of a layer's energy on average, "
        f"{100 * record['least']:.2f} % at least\n"
    )
    found = describe("both.safetensors")
    assert (found.naming.split()[0], found.dtypes) == ("kohya", ["bfloat16"])
    assert [group.ranks for group in found.groups] == [[3]] * 3


def test_combine_replaces_only_on_request(run, refused, ink):
    before = Path(ink).read_bytes()
    command = ["adapter", "combine", "--adapter", f"{ink}:2", "--out", ink]
    assert "ink.safetensors exists; give another name, or --overwrite" in refused(*command)
    assert Path(ink).read_bytes() == before
    assert run(*command, "--overwrite").code == 0
    assert Path(ink).read_bytes() != before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--out new.safetensors", "Missing option '--adapter'"),
        ("--adapter ink.safetensors", "Missing option '--out'"),
        ("--adapter none --out new.safetensors", "adapter 'none' is neither a file"),
        ("--adapter ink.safetensors:x --out new.safetensors", "strength 'x' must be a number"),
        ("--adapter ink.safetensors --out new.bin", "adapters are written as safetensors"),
        ("--adapter ink.safetensors --out no/new.safetensors", "no is no folder"),
        ("--adapter ink.safetensors --out new.safetensors --rank 0", "--rank 0 must be"),
        ("--adapter ink.safetensors --out new.safetensors --rank=", "--rank '' must be"),
        ("--adapter ink.safetensors --out new.safetensors --naming x", "naming 'x' is not known"),
        ("--adapter ink.safetensors --out new.safetensors --dtype x", "dtype 'x' is unknown"),
        (
            "--adapter ink.safetensors --adapter wide.safetensors --out n.safetensors",
            "different mo",
        ),
        ("--adapter dora.safetensors --out new.safetensors", "needs the model's weights for DoRA"),
    ],
)
def test_combine_refuses(refused, ink, options, told):
    wide = {"img_in": Update({"down": torch.ones(1, 32), "up": torch.ones(64, 1)}, 1.0)}
    write(Adapter(wide), Path("wide.safetensors"), "comfyui")
    parts = {"down": torch.ones(1, 64), "up": torch.ones(64, 1), "magnitude": torch.ones(64)}
    write(Adapter({"img_in": Update(parts, 1.0)}), Path("dora.safetensors"), "comfyui")
    assert told in refused("adapter", "combine", *options.split())


# ---- fetch ------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch) -> list[tuple[str, str]]:
    """A hub that has everything; what was asked of it."""
    asked = []

    def download(repository, file, *, local_files_only):
        assert not local_files_only
        asked.append((repository, file))
        return f"cache/{repository}/{file}"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return asked


def test_fetch_prints_the_file(run, hub):
    done = run("adapter", "fetch", "lightning-4")
    assert done.code == 0
    assert hub[0][0] == "lightx2v/Qwen-Image-Lightning"
    assert "4steps" in hub[0][1]
    assert done.out == f"cache/{'/'.join(hub[0])}\n"
    assert run("adapter", "fetch", "me/inks/deep/ink.safetensors").code == 0
    assert hub[1] == ("me/inks", "deep/ink.safetensors")


def test_fetch_refuses(refused, hub, monkeypatch):
    error = refused("adapter", "fetch", "lightning-5")
    assert "adapter 'lightning-5' is not known; give lightning-4, lightning-8 or owner/" in error
    assert hub == []

    def fail(*_, **__):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    error = refused("adapter", "fetch", "lightning-8")
    assert error.endswith("adapter 'lightning-8': no route to host; check name and network\n")


def test_an_adapter_that_was_not_fetched_says_how(refused, monkeypatch):
    def fail(*_, local_files_only, **__):
        assert local_files_only
        raise OSError("not here")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    error = refused("adapter", "info", "lightning-8")
    assert error.endswith("is not in the cache; fetch it with: danqing adapter fetch lightning-8\n")
