"""The stages one after the other, tiny: from drawn discs to a model folder that paints."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import danqing
from recipes.mini import base, data, export, judge, score, vae
from recipes.mini.config import Config
from tests import tiny


@pytest.fixture
def small(config: Config) -> Config:
    """The miniature of conftest.py, with networks of a few thousand parameters."""
    latent = replace(config.vae, base_dim=8, dim_mult=(1, 1, 2, 2), pictures=24, batch=8, warm_up=2)
    text = {"text_width": 64, "text_inner": 64, "text_layers": 1, "text_heads": 2, "text_groups": 1}
    painter = replace(
        config.base,
        **text,
        width=64,
        heads=2,
        layers=2,
        axes=(8, 12, 12),
        pictures=24,
        batch=8,
        warm_up=2,
        sheet_prompts=("a fox", "狐狸"),
    )
    return replace(config, vae=latent, base=painter)


@pytest.fixture
def trained(small: Config, runs: Path) -> Path:
    tiny.write_tokenizer(runs / "tokenizer")
    for stage in (data, vae, base, export, judge):
        stage.run(small, runs, None)
    return runs


def test_from_drawings_to_pictures(small: Config, trained: Path, capsys) -> None:
    pipe = danqing.load(str(trained / "model"))
    result = pipe.generate(danqing.Request("狐狸", seed=1, steps=2))
    assert result.image.size == (64, 64)
    assert pipe.defaults.sizes == ((64, 64),)
    check_latents_are_normalised(small, trained)
    check_scores(small, trained, pipe)


def check_latents_are_normalised(config: Config, runs: Path) -> None:
    source = base.Data(runs, base.PromptTokenizer.from_folder(runs / "tokenizer"))
    clean, tokens = source.batch(np.random.default_rng(0), 64, config.base.dropout)
    assert [len(t) for t in tokens] == sorted(len(t) for t in tokens)
    assert clean.shape == (64, 16, 64)
    assert abs(clean.mean().item()) < 0.1
    assert clean.std().item() == pytest.approx(1.0, abs=0.15)


def check_scores(config: Config, runs: Path, pipe: danqing.Pipeline) -> None:
    """A perfect guesser scores 100 %, and nothing on shuffled prompts."""
    one_style = replace(config.data, styles=("3d",))
    facts = score.scored_facts(one_style, runs)
    assert len(facts) == 2 * config.data.num_concepts
    labels = [config.data.concepts.index(f.concept.en) for f in facts]
    logits = torch.nn.functional.one_hot(torch.tensor(labels), 8).float()
    images = np.full((len(facts), 64, 64, 3), 250, np.uint8)
    found = score.score(logits, images, facts, one_style)
    assert (found.top1, found.shuffled) == (1.0, 0.0)
    assert found.background == pytest.approx(0.5)


def test_resumed_base_stage_goes_on(small: Config, trained: Path) -> None:
    before = (trained / "base" / "ema.safetensors").read_bytes()
    longer = replace(small, base=replace(small.base, pictures=40))
    base.run(longer, trained, None)
    state = torch.load(trained / "base" / "state.pt", weights_only=True)
    assert state["step"] == 5
    assert (trained / "base" / "ema.safetensors").read_bytes() != before
