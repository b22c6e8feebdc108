"""Reading: what is asked of a caption, what it learns, and that it goes on where it stopped."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danqing.models.tokenizer import PromptTokenizer
from recipes.mini import checkpoint, text
from recipes.mini.art import Bank
from recipes.mini.config import Config, TextStage
from recipes.mini.files import read_json
from recipes.mini.plan import Plan
from recipes.mini.stream import Stream
from tests import tiny
from tests.recipes.conftest import FOX, KINDS, ROCKET

STYLES = ("3d",)


@pytest.fixture
def small(config: Config, runs: Path, bank: Bank) -> Config:
    """An encoder of one narrow layer."""
    sizes = {"text_width": 32, "text_inner": 32, "text_layers": 1, "text_heads": 2}
    stage = TextStage(
        captions=960,
        batch=16,
        muon_rate=1e-2,
        adam_rate=1e-2,
        warm_up=1,
        decay=0.1,
        ema=0.8,
        seed=5,
    )
    tiny.write_tokenizer(runs / "tokenizer")
    return replace(config, text=stage, base=replace(config.base, text_groups=1, **sizes))


def captions(runs: Path, config: Config, facts: int) -> text.Captions:
    tokenizer = PromptTokenizer.from_folder(runs / "tokenizer")
    return text.Captions(Stream(config.data, runs, "train"), tokenizer, facts, seed=1)


@pytest.mark.parametrize("facts", KINDS.values(), ids=KINDS)
def test_every_answer_is_one_of_its_question(facts):
    asked = text.questions(STYLES)
    for name, answer in text.answers(facts).items():
        assert answer == text.UNKNOWN or answer in asked[name]


def test_answers_tell_the_first_of_a_pair_from_the_second():
    pair = text.answers(KINDS["pair in snow"])
    assert (pair["concept"], pair["other"]) == (FOX.hex, ROCKET.hex)
    assert (pair["relation"], pair["scene"]) == ("right", "snow")
    assert pair["colour"] == text.UNKNOWN  # snow is no colour


def test_a_single_thing_has_no_other_to_tell(small, runs):
    steps = captions(runs, small, 1)
    names = (*text.questions(STYLES), *text.LOOKS)
    labels = dict(zip(names, steps.labels(KINDS["alone"]), strict=True))
    assert labels["other"] == labels["other look"] == text.UNKNOWN
    assert labels["look"] == steps.drawings["3d", FOX.hex]
    assert (labels["count"], labels["place"], labels["tint"]) == (0, 0, 0)


def test_a_step_holds_both_languages_in_the_order_of_length(small, runs):
    steps = captions(runs, small, 6)
    tokens, labels = steps[3]
    assert [len(own) for own in tokens] == sorted(len(own) for own in tokens)
    assert labels.shape == (12, len(text.questions(STYLES)) + len(text.LOOKS))
    again, same = steps[3]
    assert again == tokens
    assert torch.equal(same, labels)


def test_a_question_that_nobody_can_answer_costs_nothing():
    found = {"a": torch.zeros(3, 4), "b": torch.randn(3, 5)}
    labels = torch.tensor([[0, text.UNKNOWN], [1, text.UNKNOWN], [2, text.UNKNOWN]])
    loss = text.reading_loss(found, labels, torch.zeros(1, 2)).item()
    assert loss == pytest.approx(torch.tensor(4.0).log())


def test_looks_are_told_apart_and_weighed():
    drawings = torch.tensor([[1.0, -1.0], [0.0, 2.0]])
    found = {"look": torch.tensor([[1.0, -1.0], [0.0, 1.0], [9.0, 9.0]])}
    labels = torch.tensor([[0], [1], [text.UNKNOWN]])
    loss = text.reading_loss(found, labels, drawings).item()
    assert loss == pytest.approx(text.LOOK_WEIGHT * (0.0 + 0.5) / 2)


def test_thumbnails_show_a_colour_where_the_thing_is(bank):
    looks = text.looks(bank)
    assert looks.shape == (len(bank), 4 * text.THUMB**2)
    assert looks.isfinite().all()
    codes = [code for _, code in bank]
    fox, rocket = looks[codes.index(FOX.hex)], looks[codes.index(ROCKET.hex)]
    assert (fox - rocket).abs().max() > 0.5


def test_it_learns_to_read_and_hands_its_encoder_on(small, runs, one_thread, capsys):
    text.run(small, runs, None)
    told = read_json(runs / "text" / "text.json")
    plan = Plan(Bank(runs / "art", STYLES), small.data.holdout_percent)
    assert told["steps"] == 60
    assert told["accuracy"]["concept"] > 2 / len(plan.concepts)
    vocabulary = PromptTokenizer.from_folder(runs / "tokenizer").vocabulary
    fresh = text.build_encoder(small.base, vocabulary)
    text.load_encoder(fresh, runs)
    for one in (fresh.embed_tokens.weight, fresh.norm.weight):
        assert one.isfinite().all()


def test_a_stopped_run_goes_on_to_the_same_encoder(small, runs, one_thread, monkeypatch):
    text.run(small, runs, None)
    straight = load_file(runs / "text" / "text.safetensors")
    shutil.rmtree(runs / "text")
    real, calls = text.reading_loss, []

    def asks_to_stop(*args):
        calls.append(1)
        if len(calls) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(text, "reading_loss", asks_to_stop)
        text.run(small, runs, None)
    assert checkpoint.load(runs / "text" / "state")["step"] == 8
    text.run(small, runs, None)
    again = load_file(runs / "text" / "text.safetensors")
    assert all(torch.equal(again[name], own) for name, own in straight.items())


def test_without_the_stage_the_next_one_says_what_to_run(small, tmp_path):
    with pytest.raises(FileNotFoundError, match="run the stage `text` first"):
        text.load_encoder(text.build_encoder(small.base, 300), tmp_path)
