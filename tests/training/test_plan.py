from dataclasses import replace

import pytest

from danqing.errors import TrainingError
from danqing.models.transformer import TransformerConfig
from danqing.training.plan import check_fits, plan, savings
from danqing.training.settings import Settings, make
from danqing.training.simulate import simulate, step_bytes
from tests import tiny

SHAPES = [(8, 8, 20), (4, 8, 10)]
CONFIG = replace(tiny.TRANSFORMER, num_layers=6)


def settings(**values: object) -> Settings:
    return make({"data": ["x"], "out": "y.safetensors", **values})


def test_a_longer_network_takes_as_much_more_as_the_simulation_of_it() -> None:
    own = settings()
    assert step_bytes(CONFIG, own, SHAPES) == pytest.approx(simulate(CONFIG, own, SHAPES), rel=0.01)


def test_layers_of_later_blocks_alone_are_planned_with_all_blocks() -> None:
    own = settings(targets=[r"transformer_blocks\.4\.attn\.to_q"])
    assert step_bytes(CONFIG, own, SHAPES) == simulate(CONFIG, own, SHAPES)
    with pytest.raises(TrainingError, match="names no layer"):
        step_bytes(CONFIG, settings(targets=[r"transformer_blocks\.6\.attn\.to_q"]), SHAPES)


def test_what_should_take_less_takes_less() -> None:
    plain = plan(CONFIG, settings(), SHAPES)
    assert plan(CONFIG, settings(checkpointing=True), SHAPES).working < 0.5 * plain.working
    assert plan(CONFIG, settings(quantise="int8"), SHAPES).weights < 0.4 * plain.weights
    assert plan(CONFIG, settings(dtype="bfloat16"), SHAPES).weights == plain.weights // 2
    assert plan(CONFIG, settings(optimiser="adamw8bit"), SHAPES).optimiser == plain.optimiser // 4
    assert plan(CONFIG, settings(), SHAPES[:1]).working < plain.working
    assert plan(CONFIG, settings(), SHAPES, process=1000).peak == plain.peak + 1000


def test_an_adapter_takes_a_tenth_of_the_state_of_all_weights() -> None:
    lora, full = plan(CONFIG, settings(rank=4), SHAPES), plan(CONFIG, settings(kind="full"), SHAPES)
    assert lora.trained < 0.1 * full.trained
    assert full.optimiser == 8 * full.trained
    assert full.adapter == 0


def test_the_published_network() -> None:
    """Known numbers: 20.43 billion parameters, 6.64 million by rank 1 on the usual layers."""
    own = settings(dtype="bfloat16", quantise="int8", checkpointing=True)
    found = plan(TransformerConfig(), own, [(64, 64, 100)])
    assert found.trained == 16 * 6_635_520
    assert 19e9 < found.weights < 21e9
    assert plan(TransformerConfig(), settings(dtype="bfloat16"), SHAPES).weights == 40_860_802_176
    assert 22e9 < found.peak < 28e9


def test_what_cannot_fit_is_refused_with_what_would_help() -> None:
    own = settings()
    needed = plan(CONFIG, own, SHAPES).peak
    assert check_fits(CONFIG, own, SHAPES, 0, needed).peak == needed
    with pytest.raises(TrainingError, match=r"the training takes .* are free; --.* saves"):
        check_fits(CONFIG, own, SHAPES, 0, needed - 1)
    assert check_fits(CONFIG, own, SHAPES, 0, None).peak == needed


def test_savings_are_what_the_other_plan_says() -> None:
    own = settings()
    ways = dict(savings(CONFIG, own, SHAPES))
    assert set(ways) >= {"--checkpointing", "--quantise int8", "--dtype bfloat16", "--batch 1"}
    other = plan(CONFIG, replace(own, checkpointing=True), SHAPES).peak
    assert ways["--checkpointing"] == plan(CONFIG, own, SHAPES).peak - other
    assert list(ways.values()) == sorted(ways.values(), reverse=True)
