"""The stages one after the other, tiny: from drawn discs to a model folder that paints."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import danqing
from recipes.mini import (
    base,
    blocks,
    checkpoint,
    data,
    export,
    gauge,
    judge,
    reader,
    score,
    score_distill,
    start,
    text,
    vae,
)
from recipes.mini.art import load_bank
from recipes.mini.colours import COLOURS
from recipes.mini.config import Config, StartStage
from recipes.mini.crops import Crops
from recipes.mini.facts import held_out
from recipes.mini.stream import Stream
from tests import tiny
from tests.recipes.conftest import fetched


@pytest.fixture(scope="module")
def small(config: Config) -> Iterator[Config]:
    """The miniature of conftest.py, with networks of a few thousand parameters."""
    latent = replace(
        config.vae,
        styles=("3d",),
        base_dim=8,
        dim_mult=(1, 1, 2, 2, 2),
        z_dim=8,
        outer_pictures=16,
        pictures=24,
        decoder_pictures=16,
        batch=8,
        warm_up=2,
    )
    widths = {"text_width": 64, "text_inner": 64, "text_layers": 1, "text_heads": 2}
    painter = replace(
        config.base,
        **widths,
        text_groups=1,
        width=64,
        heads=2,
        layers=2,
        views=1,
        axes=(8, 12, 12),
        pictures=24,
        batch=8,
        warm_up=2,
        sheet_prompts=("a fox", "狐狸"),
    )
    reading = replace(config.text, captions=24, batch=8, warm_up=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "HELD_PICTURES", 8)
        yield replace(config, vae=latent, text=reading, base=painter)


@pytest.fixture(scope="module")
def made(small: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all stages leave behind."""
    runs = fetched(tmp_path_factory.mktemp("made"))
    tiny.write_tokenizer(runs / "tokenizer")
    for stage in (data, vae, text, base, export, judge, reader):
        stage.run(small, runs, None)
    return runs


@pytest.fixture
def trained(made: Path, tmp_path: Path) -> Path:
    """A copy, to go on with."""
    return shutil.copytree(made, tmp_path / "trained")


def test_from_drawings_to_pictures(small: Config, trained: Path) -> None:
    pipe = danqing.load(str(trained / "model"))
    for size in small.data.sizes:
        result = pipe.generate(danqing.Request("狐狸", seed=1, steps=2, size=size))
        assert result.image.size == size
    assert pipe.defaults.sizes == small.data.sizes
    check_latents_are_normalised(small, trained)
    check_scores(small, trained)
    check_goes_on(small, trained)


def check_latents_are_normalised(config: Config, runs: Path) -> None:
    stream, vae_ = Stream(config.data, runs, "train"), base.load_vae(runs)
    images = np.stack([stream.picture(i, (64, 64)).image for i in range(64)])
    moments = vae_.encode(vae.to_float(torch.from_numpy(images)))
    clean = blocks.draw_latents(vae_, moments, torch.Generator().manual_seed(0))
    assert clean.shape == (64, 8, 4, 4)
    assert abs(clean.mean().item()) < 0.1
    assert clean.std().item() == pytest.approx(1.0, abs=0.15)


def check_goes_on(config: Config, runs: Path) -> None:
    """From a model folder alone another training has the weights that the model has."""
    again = runs.with_name("again")
    start.run(replace(config, start=StartStage(str(runs / "model"), vae=False)), again, None)
    assert not (again / "vae" / "config.json").exists()
    start.run(replace(config, start=StartStage(str(runs / "model"), vae=True)), again, None)
    pipe = danqing.load(str(runs / "model"))
    networks = base.begin(base.Networks(config.base, pipe.model.tokenizer.vocabulary, 8), again)
    own = networks.transformer.state_dict()
    assert all(torch.equal(own[n], t) for n, t in pipe.model.transformer.state_dict().items())
    words = networks.text_encoder.state_dict()
    assert all(torch.equal(words[n], t) for n, t in pipe.model.text_encoder.state_dict().items())
    latent = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(base.load_vae(again).decode(latent), pipe.model.vae.decode(latent))
    tokenizer = base.PromptTokenizer.from_folder(again / "tokenizer")
    assert tokenizer.encode("狐狸") == pipe.model.tokenizer.encode("狐狸")
    check_another_vae(config, again)


def check_another_vae(config: Config, runs: Path) -> None:
    """What is learnt stays, but for the layers that its latents pass through."""
    vocabulary = base.PromptTokenizer.from_folder(runs / "tokenizer").vocabulary
    before = base.begin(base.Networks(config.base, vocabulary, 8), runs).state_dict()
    after = base.begin(base.Networks(config.base, vocabulary, 4), runs).state_dict()
    changed = {n for n in before if before[n].shape != after[n].shape}
    assert changed == {
        f"transformer.{n}" for n in ("img_in.weight", "proj_out.weight", "proj_out.bias")
    }
    assert all(torch.equal(before[n], after[n]) for n in set(before) - changed)
    wider = base.Networks(replace(config.base, text_inner=96), vocabulary, 8)
    with pytest.raises(ValueError, match="set \\[base\\] alike"):
        base.begin(wider, runs)


def check_scores(config: Config, runs: Path) -> None:
    """Perfect answers score 100 %, and on shuffled prompts what chance gives."""
    asked = score.held_facts(config.data, runs, count=10)
    kept = Stream(config.data, runs, "held").plan.kept
    assert all(held_out(f, config.data.holdout_percent, kept) for f in asked.facts)
    assert Counter(asked.groups) == {f"count {n}": 2 for n in range(1, 6)} | dict.fromkeys(
        ("place", "pair", "all", "common"), 10
    )
    right = score.wanted(asked)
    assert {name: sum(w is not None for w in own) for name, own in right.items()}["count"] == 10
    found = score.compare(right, right)
    for name in score.ROWS:
        assert found[name] == 1.0
        assert found[f"{name}, shuffled"] == found[f"{name}, chance"] < 1 or name == "style"
    images = np.stack([np.full((128, 128, 3), COLOURS[f.ground.colour].rgb) for f in asked.facts])
    seen = score.answers(judge.load(runs), reader.load(runs), images.astype(np.uint8), asked.facts)
    assert score.compare(seen, right)["background"] == 1.0
    check_page({"English": found, "real renders": found})
    assert len(list(score.strangers(Stream(config.data, runs, "held"), asked))) == len(images)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less of everything for the score of a distillation."""
    for name, value in {"FACTS": 5, "TEACHER_STEPS": 6, "RESAMPLES": 20, "BLOCKS": 4}.items():
        monkeypatch.setattr(score_distill, name, value)


def test_the_score_of_a_distillation(
    small: Config, trained: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher beside itself is perfectly near and as diverse; what is missing is said."""
    own, pages = score_distill.run, []
    monkeypatch.setattr(score_distill, "fill", lambda page, name, text: pages.append(text))
    monkeypatch.setattr(score_distill, "SHEET", trained / "sheet.png")
    real = score_distill.ways_of

    def again(pipe: danqing.Pipeline, runs: Path) -> list[score_distill.Way]:
        ways = real(pipe, runs)
        return [*ways, replace(ways[0], name="itself")]

    monkeypatch.setattr(score_distill, "ways_of", again)
    own(small, trained, None)
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in pages[0].splitlines()
            if line.startswith("| ")}  # fmt: skip
    names = [cell.strip() for cell in rows[""]]
    assert names == ["teacher, 6 guided", "teacher at 4, guided", "teacher at 4, no guidance",
                     "teacher at 2, guided", "itself"]  # fmt: skip
    assert [cell.strip() for cell in rows["network evaluations"]] == ["12", "8", "4", "4", "12"]
    for figure in ("diversity", "same-seed cosine", "contrast", "chroma", "fine detail"):
        assert rows[figure][0].strip() == rows[figure][4].strip() == "1 (1 to 1)", figure
    assert rows["concept"][0] == rows["concept"][4]
    assert {"style", "background", "count", "position", "pair"} <= set(rows)
    assert "not trained: imitation-4, lightning-4, lightning-8" in pages[0]
    with Image.open(trained / "sheet.png") as sheet:
        assert sheet.size == (7 * (128 + score_distill.GAP), 5 * (128 + score_distill.GAP))
    assert pages[1].count(" · ") == 6
    assert "(pictures/sheet.png)" in pages[1]


def check_page(columns: dict[str, dict[str, float]]) -> None:
    """Every row has its goals beside, and as many cells as there are heads."""
    text = score.page(columns, dict.fromkeys(columns, 1.25), 31.04, ["first", "last"])
    rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(score.ROWS) + 2
    assert len({len(row) for row in rows}) == 1
    assert "| count, 1 to 5 | 70 % | 90 % | 100.0 % | 100.0 % |" in text
    assert "| 3 x | 1.5 x | 1.25 x |" in text
    assert "31.0 dB" in text


def test_a_resumed_vae_ends_where_an_unbroken_one_does(small: Config, runs: Path) -> None:
    vae.run(small, runs, None)
    unbroken = (runs / "vae" / "vae.safetensors").read_bytes()
    shutil.rmtree(runs / "vae")
    vae.run(small, runs, minutes=0)
    assert checkpoint.load(runs / "vae" / "outer" / "state")["step"] == 0
    assert not (runs / "vae" / "whole").exists()
    with pytest.raises(FileNotFoundError, match="run the stage `vae` to its decoder first"):
        base.load_vae(runs)
    vae.run(small, runs, None)
    assert (runs / "vae" / "vae.safetensors").read_bytes() == unbroken


def test_a_grown_vae_is_the_outer_one_about_its_innermost_level(small: Config, made: Path) -> None:
    outer = load_file(made / "vae" / "outer" / "vae.safetensors")
    state = vae.grown(small.vae, made / "vae" / "outer").state_dict()
    fresh = vae.build(small.vae).state_dict()
    for name in ("encoder.conv_in.weight", "encoder.down_blocks.4.conv1.weight",
                 "decoder.conv_out.bias"):  # fmt: skip
        assert torch.equal(state[name], outer[name])
    inside = "decoder.up_blocks.{}.resnets.0.conv2.weight".format
    assert torch.equal(state[inside(4)], outer[inside(3)])
    for name in (inside(0), "encoder.mid_block.resnets.0.conv1.weight", "quant_conv.weight"):
        assert torch.equal(state[name], fresh[name])


def test_the_decoder_learns_on_while_the_latents_stay(made: Path) -> None:
    """So the transformer may be trained by then."""
    before, after = vae.load(made / "vae" / "whole"), vae.load(made / "vae")
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latent = after.encode(image)[0]
    assert torch.equal(before.encode(image)[0], latent)
    assert before.config == after.config
    assert not torch.equal(before.decode(latent), after.decode(latent))


def test_resumed_base_stage_goes_on(small: Config, trained: Path) -> None:
    before = (trained / "base" / "ema.safetensors").read_bytes()
    longer = replace(small, base=replace(small.base, pictures=40))
    base.run(longer, trained, None)
    assert checkpoint.load(trained / "base" / "state")["step"] == 5
    assert (trained / "base" / "ema.safetensors").read_bytes() != before


def test_crops_are_pieces_or_whole_pictures_of_as_many_pixels(small: Config, runs: Path) -> None:
    load_bank(small, runs)
    stage = replace(small.vae, batch=6)
    steps = Crops(Stream(small.data, runs, "train"), small.data.sizes, stage)
    shapes = {tuple(steps[n].shape) for n in range(30)}
    assert shapes == {(6, 64, 64, 3), (4, 64, 96, 3)}
    assert torch.equal(steps[3], steps[3])
    assert not torch.equal(steps[3], steps[4])


def test_psnr_of_a_known_error() -> None:
    images = np.full((2, 8, 8, 3), 100, np.uint8)
    assert vae.psnr(images, images + 16) == pytest.approx(24.05, abs=0.01)


def test_captions_that_tell_nothing_leave_no_difference(small: Config, runs: Path) -> None:
    """An untrained network's last layer is zero: it answers alike, whatever it is told."""
    tiny.write_tokenizer(runs / "tokenizer")
    for stage in (data, vae):
        stage.run(small, runs, None)
    tokenizer = base.PromptTokenizer.from_folder(runs / "tokenizer")
    pictures = gauge.Gauge(Stream(small.data, runs, "held"), tokenizer, 12, (64, 64))
    networks, decoder = base.Networks(small.base, tokenizer.vocabulary, 8), base.load_vae(runs)

    def measured() -> gauge.Gauged:
        weights = torch.ones(1, 32)
        losses = base.losses_of(networks, tokenizer.prefix, weights)
        return pictures.measure(decoder, torch.device("cpu"), losses)

    blind = measured()
    assert blind.own == blind.name == blind.caption > 0
    torch.nn.init.normal_(networks.transformer.proj_out.weight, std=0.1)
    torch.nn.init.normal_(networks.transformer.norm_out.weight, std=0.1)
    for block in networks.transformer.blocks:
        torch.nn.init.normal_(block.img.mod.weight, std=0.5)
    seeing = measured()
    assert len({seeing.own, seeing.name, seeing.caption}) == 3
    assert measured() == seeing
