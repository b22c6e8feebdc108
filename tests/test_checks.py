"""Requests that cannot be painted: each a one-line error with the value, the limit, the remedy."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest

from danqing import checks
from danqing.adapters.adapter import Sampling
from danqing.errors import RequestError
from danqing.models.tokenizer import PromptTokenizer
from danqing.types import Request
from danqing.weights.model import Defaults
from tests import tiny

DEFAULTS = Defaults(size=(64, 48), steps=5, guidance=3.0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)
    return PromptTokenizer.from_folder(folder)


def checked(tokenizer: PromptTokenizer, request: Request) -> Request:
    checks.check_request(request)
    checks.check_request(request)
    ready = checks.complete(request, DEFAULTS)
    checks.check(ready, tokenizer, unit=16)
    return ready


def test_silence_takes_the_models_defaults(tokenizer: PromptTokenizer) -> None:
    ready = checked(tokenizer, Request("x"))
    assert (ready.size, ready.steps, ready.guidance, ready.sigmas) == ((64, 48), 5, 3.0, None)


def test_what_is_said_stands(tokenizer: PromptTokenizer) -> None:
    request = Request("x", "y", 7, (32, 16), 1, None, 1.0)
    assert checked(tokenizer, request) == request


def test_sigmas_count_the_steps(tokenizer: PromptTokenizer) -> None:
    ready = checked(tokenizer, Request("x", sigmas=(1.0, 0.5)))
    assert (ready.sigmas, ready.steps) == ((1.0, 0.5, 0.0), 2)
    assert checked(tokenizer, Request("x", sigmas=(1.0, 0.5), steps=2)).steps == 2


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": 3}, "prompt 3 is a int; give a text"),
    ({"negative": None}, "negative prompt None is a NoneType"),
    ({"seed": -1}, "seed -1 must be a whole number from 0 to 9223372036854775807"),
    ({"seed": 2**63}, "seed 9223372036854775808 must be"),
    ({"seed": 1.0}, "seed 1.0 must be a whole number"),
    ({"seed": True}, "seed True must be a whole number"),
    ({"steps": 0}, "steps 0 must be a whole number from 1 to 1000"),
    ({"steps": -4}, "steps -4 must be"),
    ({"steps": 1001}, "steps 1001 must be"),
    ({"steps": 2.5}, "steps 2.5 must be"),
    ({"steps": "4"}, "steps '4' must be"),
    ({"sigmas": ()}, r"sigmas \[\] must fall"),
    ({"sigmas": (0.5, 0.9)}, r"sigmas \[0.5, 0.9\] must fall"),
    ({"sigmas": (1.0, 0.5), "steps": 4}, "steps 4 and 2 sigmas disagree; leave one of them out"),
    ({"guidance": 0.5}, "guidance 0.5 must be a number from 1"),
    ({"guidance": math.nan}, "guidance nan must be"),
    ({"guidance": math.inf}, "guidance inf must be"),
    ({"guidance": 10**400}, "guidance 1000.* must be"),
    ({"guidance": "4"}, "guidance '4' must be"),
    ({"guidance": True}, "guidance True must be"),
    ({"size": (60, 64)}, "width 60 must be a positive multiple of 16 pixels; nearest: 48 or 64"),
    ({"size": (64, 8)}, "height 8 must be a positive multiple of 16 pixels; nearest: 16"),
    ({"size": (0, 64)}, "width 0 must be a positive multiple of 16 pixels$"),
    ({"size": (64, -16)}, "height -16 must be"),
    ({"size": (64.0, 64)}, "width 64.0 must be"),
    ({"size": (True, 64)}, "width True must be"),
    ({"size": (64,)}, r"size \(64,\) must be \(width, height\)"),
    ({"size": "64x64"}, r"size '64x64' must be \(width, height\)"),
    ({"size": 64}, r"size 64 must be \(width, height\)"),
    ({"adapters": ["ink"]}, r"adapters \['ink'\] must be names with strengths"),
    ({"adapters": {"ink": "0.8"}}, "strength '0.8' of adapter 'ink' must be a number"),
    ({"adapters": {"ink": True}}, "strength True of adapter 'ink' must be a number"),
    ({"adapters": {"ink": math.nan}}, "strength nan of adapter 'ink' must be a number"),
    ({"adapters": {"ink": math.inf}}, "strength inf of adapter 'ink' must be a number"),
    ({"adapters": {"ink": 10**400}}, "strength 1000.* of adapter 'ink' must be a number"),
    ({"adapters": {"ink": None}}, "strength None of adapter 'ink' must be a number"),
    ({"adapters": {"ink": 1j}}, "strength 1j of adapter 'ink' must be a number"),
    ({"adapters": None}, "adapters None must be names with strengths"),
    ({"adapters": "ink"}, "adapters 'ink' must be names with strengths"),
    ({"adapters": {"\ud800": 1.0}}, "adapter .* holds half a character"),
    ({"adapters": {"ink": -101}}, "strength -101 .* must be a number from -100 to 100"),
    ({"adapters": {7: 1.0}}, "adapter 7 is a int"),
    ({"adapters": dict.fromkeys(map(str, range(1000)), 1.0)}, "1000 adapters .* at most 32"),
    ({"prompt": "x" * 2000}, "prompt has 2000 tokens, the limit is 1019; shorten it"),
    ({"negative": "x" * 2000}, "prompt has 2000 tokens, the limit is 1019"),
    ({"prompt": "\ud800"}, "prompt"),
    ({"sigmas": 0.5}, "sigmas 0.5"),
    ({"sigmas": (10**400, 0.5)}, "sigmas"),
]


@pytest.mark.parametrize(
    ("values", "message"),
    WRONG,
    ids=lambda value: ascii(value)[:40],
)
def test_an_error_of_one_line(
    tokenizer: PromptTokenizer, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        checked(tokenizer, Request(**{"prompt": "x", **values}))
    assert "\n" not in str(caught.value)


def test_the_negative_is_not_measured_where_it_is_not_used(tokenizer: PromptTokenizer) -> None:
    assert checked(tokenizer, Request("x", negative="x" * 2000, guidance=1.0)).guidance == 1.0


@pytest.mark.parametrize(("longest", "text"), [(2 * 4090 * 16, 6), (2 * 3996 * 16, 100)])
def test_positions_end_the_size(longest: int, text: int) -> None:
    """Half of the longest side and the text share 4096 positions."""
    checks.check_size((longest, 16), 16, text)
    checks.check_size((16, longest), 16, text)
    with pytest.raises(RequestError, match=f"prompt of {text} tokens a side is at most {longest}"):
        checks.check_size((longest + 32, 16), 16, text)


@pytest.mark.parametrize("given", ["a fox", None, ("a fox",)])
def test_what_is_no_request_is_an_error(given: object) -> None:
    with pytest.raises(RequestError, match=r"is not a danqing.Request; write Request\("):
        checks.check_request(given)  # type: ignore[arg-type]


def test_a_negative_without_effect_is_told() -> None:
    request = checks.complete(Request("x", negative="y", guidance=1.0), DEFAULTS)
    with pytest.warns(UserWarning, match="negative prompt has no effect at guidance 1"):
        checks.warn([request], [None], DEFAULTS, "mini")


def test_a_foreign_size_is_told() -> None:
    defaults = Defaults(sizes=((64, 64), (96, 64)))
    ready = [checks.complete(Request("x", size=s), defaults) for s in ((64, 64), (32, 32))]
    with pytest.warns(UserWarning, match="mini was trained at 64x64, 96x64; 32x32 will look wrong"):
        checks.warn(ready, [None] * len(ready), defaults, "mini")


@pytest.mark.parametrize(
    "request_", [Request("x"), Request("x", negative="y"), Request("x", guidance=1.0)]
)
def test_nothing_is_told_without_reason(request_: Request) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checks.warn([checks.complete(request_, DEFAULTS)], [None], DEFAULTS, "mini")


def test_a_size_may_be_a_list(tokenizer: PromptTokenizer) -> None:
    """As it comes out of JSON."""
    ready = checked(tokenizer, Request("x", size=[32, 32]))
    checks.warn([ready], [None], Defaults(sizes=((32, 32),)), "mini")
    assert tuple(ready.size) == (32, 32)


# ---- adapters that were made for one way of sampling ------------------------------------------

FAST = Sampling(2, (1.0, 0.5, 0.0), 1.0)
ALSO = Sampling(2, (1.0, 0.5, 0.0), 1.0, ((1.0, 0.7, 0.4, 0.0),))


def completed(made: Sampling | None, **values: Any) -> tuple[Any, Any, Any]:
    ready = checks.complete(Request("x", **values), DEFAULTS, made)
    return ready.steps, ready.sigmas, ready.guidance


MADE: list[tuple[Sampling | None, dict[str, Any], tuple[Any, Any, Any]]] = [
    (None, {}, (5, None, 3.0)),
    (FAST, {}, (2, (1.0, 0.5, 0.0), 1.0)),
    (FAST, {"steps": 2}, (2, (1.0, 0.5, 0.0), 1.0)),
    (FAST, {"steps": 7}, (7, None, 1.0)),
    (ALSO, {}, (2, (1.0, 0.5, 0.0), 1.0)),
    (ALSO, {"steps": 3}, (3, (1.0, 0.7, 0.4, 0.0), 1.0)),
    (ALSO, {"steps": 4}, (4, None, 1.0)),
    (FAST, {"guidance": 2.5}, (2, (1.0, 0.5, 0.0), 2.5)),
    (FAST, {"sigmas": (1.0, 0.7)}, (2, (1.0, 0.7, 0.0), 1.0)),
    (FAST, {"sigmas": (0.9,), "steps": 1, "guidance": 4.0}, (1, (0.9, 0.0), 4.0)),
    (Sampling(8), {}, (8, None, 3.0)),
    (Sampling(8), {"steps": 8}, (8, None, 3.0)),
    (Sampling(8, None, 1.5), {"steps": 3}, (3, None, 1.5)),
]


@pytest.mark.parametrize(("made", "values", "expected"), MADE)
def test_where_the_request_is_silent_the_adapter_speaks(
    made: Sampling | None, values: dict[str, Any], expected: tuple[Any, Any, Any]
) -> None:
    assert completed(made, **values) == expected


def told(made: Sampling | None, **values: Any) -> list[str]:
    ready = checks.complete(Request("x", **values), DEFAULTS, made)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checks.warn([ready], [made], DEFAULTS, "mini")
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("made", "values"),
    [
        (FAST, {"steps": 7}),
        (FAST, {"guidance": 2.5}),
        (FAST, {"sigmas": (1.0, 0.7)}),
        (Sampling(8), {"steps": 7}),
        (ALSO, {"steps": 4}),
        (ALSO, {"steps": 3, "guidance": 2.0}),
        (Sampling(8, None, 1.5), {"guidance": 1.0}),
    ],
)
def test_other_sampling_than_the_adapters_is_told(made: Sampling, values: dict[str, Any]) -> None:
    expected = f"an adapter was made for {made}; other sampling will look wrong"
    assert told(made, **values) == [expected]


@pytest.mark.parametrize(
    ("made", "values"),
    [
        (FAST, {}),
        (FAST, {"steps": 2, "guidance": 1.0}),
        (FAST, {"sigmas": (1.0, 0.5)}),
        (Sampling(8), {"guidance": 7.0}),
        (Sampling(2), {"sigmas": (1.0, 0.7)}),
        (None, {"steps": 7}),
    ],
)
def test_the_adapters_own_sampling_is_not(made: Sampling | None, values: dict[str, Any]) -> None:
    assert told(made, **values) == []


def test_several_pictures_are_told_once() -> None:
    ready = [checks.complete(Request("x", steps=7), DEFAULTS, FAST)] * 3
    with pytest.warns(UserWarning, match="was made for 2 steps at 1") as caught:
        checks.warn(ready, [FAST] * 3, DEFAULTS, "mini")
    assert len(caught) == 1
