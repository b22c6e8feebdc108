"""Blocks of pictures that come again: sizes, captions, and the same whether remembered or not."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from danqing.models.tokenizer import PromptTokenizer
from danqing.models.vae import VAE
from recipes.mini import blocks, vae
from recipes.mini.art import load_bank
from recipes.mini.blocks import Batches, Seen
from recipes.mini.captions import NAME_STYLE
from recipes.mini.config import Config
from recipes.mini.facts import Facts
from recipes.mini.stream import Stream
from tests import tiny

VIEWS = 2


@pytest.fixture
def steps(config: Config, runs: Path, monkeypatch: pytest.MonkeyPatch) -> Batches:
    monkeypatch.setattr(blocks, "LAG", 3)
    load_bank(config, runs)
    tiny.write_tokenizer(runs / "tokenizer")
    stage = replace(config.base, pictures=160, batch=8, views=VIEWS, square=0.5, alone=0.25)
    tokenizer = PromptTokenizer.from_folder(runs / "tokenizer")
    return Batches(Stream(config.data, runs, "train"), config.data.sizes, stage, tokenizer)


@pytest.fixture
def network(config: Config) -> VAE:
    return vae.build(replace(config.vae, base_dim=8, dim_mult=(1, 1, 2, 2), z_dim=16)).eval()


def test_the_first_size_first_then_every_one_with_about_as_many_pixels(steps: Batches) -> None:
    shapes = [{tuple(block.images.shape) for block in steps[n]} for n in range(20)]
    assert all(own == {(4, 64, 64, 3)} for own in shapes[:10])
    assert all(len(own) == 1 for own in shapes)  # one size in a pack
    assert set.union(*shapes[10:]) == {(4, 64, 64, 3), (2, 64, 96, 3)}
    assert all(f.alone for n in range(5) for block in steps[n] for f in block.facts)
    assert not all(f.alone for n in range(5, 20) for block in steps[n] for f in block.facts)


def test_every_block_comes_again_with_other_captions(steps: Batches) -> None:
    keys = [block.key for n in range(5, 20) for block in steps[n]]
    assert set(Counter(key for key in keys if 8 <= key[0] < 17).values()) <= {1, VIEWS}
    first, again = steps[6][0], steps[9][1]
    assert first.key == again.key
    assert torch.equal(first.images, again.images)
    assert first.tokens != again.tokens


def test_remembered_blocks_are_as_those_made_anew(steps: Batches, network: VAE) -> None:
    """A training that was killed and goes on at any step sees what it would have seen."""
    seen = Seen(network, steps)
    straight = [seen.gather(steps[n], n) for n in range(20)]
    assert sum(block.images is None for block in steps[19]) == VIEWS
    assert len(seen.kept) == len(steps.remembered) <= VIEWS * blocks.LAG + VIEWS
    for start in (4, 11):
        steps.remembered.clear()
        anew = Seen(network, steps)
        for n in range(start, 20):
            (mean, logvar), tokens, once = anew.gather(steps[n], n)
            (mean_then, logvar_then), tokens_then, _ = straight[n]
            assert once.tolist() == [True] * len(tokens)  # all are in the one style there is
            assert tokens == tokens_then
            assert torch.equal(mean, mean_then)
            assert torch.equal(logvar, logvar_then)
            lengths = [len(own) for own in tokens]
            assert lengths == sorted(lengths)


def test_a_thing_that_is_seen_in_one_style_always_has_it_named_and_others_only_it_at_times(
    steps: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []

    def record(rng: Random, facts: Facts, name_style: float) -> str:
        shares.append(name_style)
        return "a fox"

    def nameless(rng: Random, facts: Facts) -> str:
        shares.append(0.0)
        return "3D render"

    monkeypatch.setattr(blocks, "draw_caption", record)
    monkeypatch.setattr(blocks, "draw_nameless", nameless)
    assert len({style for style, _ in steps.stream.bank}) == 1
    steps[5]
    assert set(shares) == {1.0}
    shares.clear()
    monkeypatch.setattr(steps.stream.plan, "shown_once", frozenset())
    for n in range(20):
        steps[n]
    assert set(shares) == {NAME_STYLE, 0.0}
    assert 0 < shares.count(0.0) < 0.3 * len(shares)
