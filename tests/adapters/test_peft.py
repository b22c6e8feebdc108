"""PEFT's settings: rank and alpha by patterns, and patterns from a stranger's file."""

import json
import math
from typing import Any

import pytest

from danqing.adapters import peft
from danqing.adapters.peft import PEFT_METADATA, is_pattern, matching, peft_alpha, peft_config
from danqing.adapters.refusal import refusal
from danqing.errors import AdapterError
from tests.adapters.files import ADD_V, MLP, TO_Q

REFUSE = refusal("ink")
PLAIN = {"r": 4, "lora_alpha": 8}


def config(values: Any) -> dict[str, Any] | None:
    text = values if isinstance(values, str) else json.dumps(values)
    return peft_config({PEFT_METADATA: text}, REFUSE)


def refused(values: Any) -> str:
    with pytest.raises(AdapterError) as caught:
        config(values)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ---- reading ----------------------------------------------------------------------------------


def test_without_metadata_there_are_no_settings() -> None:
    assert peft_config({"format": "pt"}, REFUSE) is None


def test_settings_come_with_diffusers_prefix_or_without() -> None:
    assert config(PLAIN) == PLAIN
    assert config({f"transformer.{key}": value for key, value in PLAIN.items()}) == PLAIN


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"r"', "[" * 100_000, "{'r': 4}"])
def test_what_is_no_json_object(text: str) -> None:
    assert refused(text).endswith(f"has metadata that is not a JSON object: {PEFT_METADATA}")


def test_settings_of_the_text_encoder() -> None:
    message = refused({**PLAIN, "text_encoder.r": 4})
    assert "has settings for the text encoder" in message
    assert message.endswith(": text_encoder.r")


HUGE = 10**400
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"r": 4}, "lora_alpha is missing"),
    ({"lora_alpha": 4}, "r is missing"),
    ({**PLAIN, "r": "4"}, "r is '4'"),
    ({**PLAIN, "r": True}, "r is True"),
    ({**PLAIN, "r": None}, "r is None"),
    ({**PLAIN, "lora_alpha": [8]}, "lora_alpha is [8]"),
    ({**PLAIN, "lora_alpha": math.nan}, "lora_alpha is nan"),
    ({**PLAIN, "lora_alpha": -math.inf}, "lora_alpha is -inf"),
    ({**PLAIN, "lora_alpha": HUGE}, "lora_alpha is 1000"),
    ({**PLAIN, "r": HUGE}, "r is 1000"),
    ({**PLAIN, "rank_pattern": ["to_q"]}, "rank_pattern is ['to_q']"),
    ({**PLAIN, "rank_pattern": {"to_q": "8"}}, "rank_pattern is {'to_q': '8'}"),
    ({**PLAIN, "rank_pattern": {"to_q": HUGE}}, "rank_pattern is {'to_q': 1000"),
    ({**PLAIN, "alpha_pattern": {"to_q": math.nan}}, "alpha_pattern is {'to_q': nan}"),
    ({**PLAIN, "alpha_pattern": {"(a+)+$": 8}}, "alpha_pattern has '(a+)+$'"),
    ({**PLAIN, "rank_pattern": {"to_q": 8, "(": 4}}, "rank_pattern has '('"),
]


@pytest.mark.parametrize(("values", "fault"), WRONG, ids=lambda value: str(value)[:50])
def test_settings_that_cannot_be_read_are_named(values: dict[str, Any], fault: str) -> None:
    assert f"has {PEFT_METADATA} that cannot be read: {fault}" in refused(values)


# ---- patterns ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        "to_q",
        "attn.to_q",
        "transformer.transformer_blocks.0.attn.to_q",
        r"transformer_blocks\.0\.attn\.to_q",
        r"transformer_blocks\.\d+\.attn\.(to_q|to_k)",
        r".*\.(0|1|59)\.attn\.to_(q|k|v)",
        "^transformer_blocks.0.attn.to_q$",
        ".*img_mlp.*",
    ],
)
def test_patterns_as_people_write_them(pattern: str) -> None:
    assert is_pattern(pattern)


HOSTILE = [
    "(a+)+$",
    "(.*)*x",
    "(.*.*)*x",
    ".*.*.*.*x",
    r"(\d+)+x",
    "a{1000}{1000}",
    "((((a?){30}){30}){30}){30}",
    r"(\w+\s?)*x",
    "(?=a)",
    "(?P<n>a)(?P=n)",
    "[a-z]+",
    "(" * 50,
    "a" * 201,
    "",
    "to_q\n",
    "(|)" * 40 + "x",
    "(.|.)" * 30 + "x",
    "(t|t)" * 30 + "x",
    "(((.|.)|(.|.))|((.|.)|(.|.)))" * 6,
]


@pytest.mark.parametrize("pattern", HOSTILE, ids=lambda text: text[:20] or "empty")
def test_hostile_patterns_are_refused_unread(pattern: str) -> None:
    """Were one let through, matching it could take longer than anyone waits."""
    assert not is_pattern(pattern)


@pytest.mark.parametrize("pattern", ["transformer.*to_q", "transformer.*", "transformer.|to_q"])
def test_a_pattern_is_read_as_it_was_checked(pattern: str) -> None:
    """What is left of it without the prefix must be a pattern as well."""
    try:
        settings = config({**PLAIN, "alpha_pattern": {pattern: 2}})
    except AdapterError:
        return
    assert peft_alpha(TO_Q, 4, settings or {})[0] in (2.0, 8.0)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({}, 8.0),
        ({"to_q": 2}, 2.0),
        ({"attn.to_q": 2}, 2.0),
        ({TO_Q: 2}, 2.0),
        ({f"transformer.{TO_Q}": 2}, 2.0),
        ({r"transformer_blocks\.\d+\.attn\.to_(q|k)": 2}, 2.0),
        ({"o_q": 2}, 8.0),  # a whole name, or the end of one behind a dot
        ({"attn": 2}, 8.0),
        ({"to_k": 2}, 8.0),
        ({"to_k": 2, "to_q": 3, "attn.to_q": 4}, 3.0),  # the first that matches
        (None, 8.0),
    ],
)
def test_a_pattern_is_the_end_of_a_name(patterns: dict[str, float] | None, expected: float) -> None:
    assert peft_alpha(TO_Q, 4, {**PLAIN, "alpha_pattern": patterns}) == (expected, "")


def test_a_pattern_is_an_expression() -> None:
    patterns = {r".*attn\.(to_q|add_v_proj)": 1, "img_mlp.*": 2}
    assert [matching(layer, patterns, 0) for layer in (TO_Q, ADD_V, MLP)] == [1, 1, 2]


def test_the_rank_must_be_that_of_the_tensors() -> None:
    assert peft_alpha(TO_Q, 4, PLAIN)[1] == ""
    assert peft_alpha(TO_Q, 5, PLAIN)[1] == "rank 5, in the metadata 4"
    assert peft_alpha(TO_Q, 5, {**PLAIN, "rank_pattern": {"to_q": 5}})[1] == ""


def test_many_patterns_are_refused_unless_they_are_names() -> None:
    names = {f"transformer_blocks.{n}.attn.to_q": 4 for n in range(1000)}
    assert config({**PLAIN, "rank_pattern": names})
    with pytest.raises(AdapterError, match="40 patterns with choices or repeats, at most 32"):
        config({**PLAIN, "rank_pattern": {f".*{n}": 4 for n in range(40)}})


def test_rank_stabilised_alpha_is_over_the_root_of_the_rank() -> None:
    alpha, _ = peft_alpha(TO_Q, 16, {"r": 16, "lora_alpha": 8, "use_rslora": True})
    assert alpha / 16 == pytest.approx(8 / math.sqrt(16))


def test_settings_that_are_not_built_are_refused() -> None:
    plain = {**PLAIN, "use_qalora": False, "layer_replication": None, "init_lora_weights": True}
    assert peft.foreign_settings(plain) == []
    settings = {
        "use_qalora": True,
        "layer_replication": [[0, 4]],
        "init_lora_weights": "pissa_niter_4",
    }
    assert peft.foreign_settings(settings) == [
        "use_qalora is True",
        "layer_replication is [[0, 4]]",
        "init_lora_weights is 'pissa_niter_4': convert it to a plain LoRA with PEFT first",
    ]
