from pathlib import Path
from typing import Any

import pytest

from danqing.adapters.targets import targets
from danqing.errors import TrainingError
from danqing.training.settings import FREE, GROUPS, PRESETS, Settings, chosen_layers, read
from tests import tiny

GIVEN: dict[str, Any] = {"data": ["photos"], "out": "mine.safetensors"}


def test_flags_stand_above_the_file_and_the_file_above_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text('preset = "subject"\nrank = 8\nsteps = 50\ndata = ["photos"]\n', "utf-8")
    found = read(path, {"out": "x.safetensors", "steps": 70})
    assert (found.preset, found.rank, found.steps) == ("subject", 8, 70)
    assert found.prior == PRESETS["subject"]["prior"]
    assert found.data == (str(tmp_path / "photos"),)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_sound(preset: str) -> None:
    assert read(None, {**GIVEN, "preset": preset}).preset == preset


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"data": []}, "no data; give a folder"),
    ({"out": ""}, "no place for the result"),
    ({"preset": "anime"}, "preset 'anime' is not known; choose style, subject, fast"),
    ({"ranks": 4}, "setting 'ranks' is not known"),
    ({"rank": 0}, "rank 0 must be from 1 to 4096"),
    ({"rank": 4.5}, "rank 4.5 must be like 16"),
    ({"rank": True}, "rank True must be like 16"),
    ({"rate": "fast"}, "rate 'fast' must be like 0.0002"),
    ({"rate": float("nan")}, "rate nan must be from"),
    ({"steps": -1}, "steps -1 must be from 1"),
    ({"sigma": "normal"}, "sigma 'normal' is not known; choose logit_normal, uniform, nodes"),
    ({"optimiser": "sgd"}, "optimiser 'sgd' is not known"),
    ({"schedule": "linear"}, "schedule 'linear' is not known"),
    ({"naming": "webui"}, "naming 'webui' is not known; choose diffusers"),
    ({"quantise": "int4"}, "quantise 'int4' is not known; choose none, int8, float8"),
    ({"shift": "high"}, "shift 'high' must be a number from 0 to 1000, or 'auto'"),
    ({"holdout": 1.0}, "holdout 1.0 must be from 0 to 0.9"),
    ({"kind": "full", "quantise": "int8"}, "quantise and dora are for adapters only"),
    ({"prompts": "a fox"}, r"prompts 'a fox' must be like \['...'\]"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_an_error_of_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        read(None, {**GIVEN, **values})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"), [("rank = ", "is not TOML"), ("\xff\xfe", "is not TOML")]
)
def test_files_that_are_not_toml(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "train.toml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(TrainingError, match=message):
        read(path, GIVEN)
    with pytest.raises(TrainingError, match=r"cannot read .*check the name"):
        read(tmp_path / "none.toml", GIVEN)


def test_free_settings_exist_and_are_not_learnt_from() -> None:
    names = set(vars(Settings()))
    assert names > FREE
    assert set(read(None, GIVEN).learnt_from()) == names - FREE


COUNTS = {"usual": 12, "attention": 8, "mlp": 4, "image": 6, "modulation": 2}


@pytest.mark.parametrize("group", GROUPS)
def test_groups(group: str) -> None:
    known = targets(tiny.transformer())
    found = chosen_layers([group], known)
    assert len(found) == {"ends": 4, "all": 3 * 14 + 6}.get(group, 3 * COUNTS.get(group, 0))
    assert found == [name for name in known if name in found]


def test_patterns_and_unions() -> None:
    known = targets(tiny.transformer())
    assert chosen_layers([r"attn\.to_q"], known) == chosen_layers(
        [r".*\.to_q", r"attn\.to_q"], known
    )
    assert len(chosen_layers(["attention", "mlp"], known)) == 36


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("attn.to_z", "names no layer; layers are attn.add_k_proj"),
        ("(", "is no group and no pattern"),
    ],
)
def test_targets_that_are_none(pattern: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        chosen_layers([pattern], targets(tiny.transformer()))
