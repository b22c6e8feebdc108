"""Whatever stands in a settings file or in a flag is taken or refused in one line."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from danqing.errors import DanqingError, TrainingError
from danqing.training import prepare
from danqing.training.settings import read
from tests.training.whole import (
    CPU,
    changed,
    files,
    photos,
    settings,
    skip_simulation,
    told,
)

GIVEN: dict[str, Any] = {"data": ["photos"], "out": "mine.safetensors"}
NAN, INF, HALF = float("nan"), float("inf"), "\ud800"
ODD: list[dict[str, Any]] = [
    *({"size": size} for size in (5, [0, 0], [64], [64.5, 64], ["a", "b"], [-32, -32], "32x32")),
    *({"size": size} for size in ([NAN, 32], [True, 32], [40, 32], [32, 32, 32], [[32], 32])),
    *({"minutes": minutes} for minutes in (-1, NAN, INF, "5", True, [5], date(2025, 1, 1))),
    *({"threads": threads} for threads in (0, -1, 1.5, "x")),
    *({"dtype": dtype} for dtype in ("int3", 5, "")),
    *({"save_dtype": dtype} for dtype in ("int3", None)),
    *({"background": colour} for colour in ("nocolour", "", "rgb(1", 5, "#ffffff80")),
    *({"shift": shift} for shift in (NAN, INF, 0, -1.0, True, 1e308, "high", [1.0])),
    *({"nodes": nodes} for nodes in ([], [0.0], [2.0], [-1.0], ["a"], [NAN], [[1.0]], 0.5, [True])),
    *({"targets": targets} for targets in ([], [5], "usual", [["usual"]])),
    *({"prior_prompts": prompts} for prompts in ([], [5], "a")),
    *({"prompts": prompts} for prompts in ([5], "a", [["a"]])),
    *({"sample_seeds": seeds} for seeds in ([-1], [], ["x"], [1.5], [2**70], 0)),
    *({"sample_steps": steps} for steps in (0, -3, 2.5, "x")),
    *({"sample_guidance": guidance} for guidance in (NAN, -1, "x", INF)),
    *({"few_step": few} for few in (5, [1])),
    *({"data": data} for data in ([1, 2], [["photos"]], "photos", 5, [], {"path": "a"})),
    *({"data": [entry]} for entry in ({}, {"path": ""}, {"path": 5}, {"path": "a", "repeat": 2})),
    *({"data": [{"path": "a", name: "2"}]} for name in ("repeats", "weight")),
    *({"out": out} for out in (5, "", ["a"])),
    *({"kind": kind} for kind in ("lokr", 5, ["lora"], {"lora": 1})),
    *({"preset": preset} for preset in ("anime", 5, None, True, ["style"], {"style": 1})),
    *({"model": model} for model in (5, ["mini"])),
    *({"cache": cache} for cache in (5, ["a"])),
    *({"trigger": trigger} for trigger in (5, ["a"])),
    *({"caption": caption} for caption in (5, ["a"])),
    *({name: NAN} for name in ("rate", "alpha", "ema", "holdout", "prior", "clip", "sigma_std")),
    *({name: INF} for name in ("rate", "alpha", "weight_decay", "sigma_mean", "caption_dropout")),
    *({name: -1} for name in ("rank", "steps", "batch", "accumulate", "warm_up", "seed", "rate")),
    *({name: True} for name in ("rank", "steps", "rate", "seed")),
    *({name: "4"} for name in ("rank", "rate", "dora", "upscale", "checkpointing")),
    *({name: [4]} for name in ("rank", "rate", "seed", "trigger")),
    {"steps": 10**4000},
    {"kind": "full", "dora": True},
    {"kind": "full", "out": "whole", "prior": 0.5},  # there is no base left to stay like
    {"ranks": 4},
    {"a\nb": 4},
]


@pytest.mark.parametrize("values", ODD, ids=lambda values: ascii(values)[:60])
def test_odd_values(values: dict[str, Any]) -> None:
    with pytest.raises(DanqingError) as caught:
        read(None, {**GIVEN, **values})
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 5000
    (name,) = values.keys() - {"kind", "out"} or values.keys()
    assert repr(name).strip("'") in message


BROKEN: list[tuple[str, str]] = [
    ("rank = ", "is not TOML"),
    ("rank = 1\nrank = 2", "is not TOML"),
    ("[a]\n[a]", "is not TOML"),
    ("rank = " + "9" * 5000, "is not TOML"),
    ("nodes = " + "[" * 5000, "is not TOML"),
    ("\0", "is not TOML"),
    ("[rank]\na = 4", "rank {'a': 4} must be like 16"),
    ("seed = 1979-05-27", "seed datetime.date"),
    ("rate = nan", "rate nan must be from"),
    ("ranks = 4", "setting 'ranks' is not known"),
    ("data = [1, 2]", "data "),
    ('data = [""]', "data "),
    ("data = 5", "data 5 must be like"),
]


@pytest.mark.parametrize(("content", "told_of"), BROKEN, ids=lambda text: text[:20])
def test_odd_files(tmp_path: Path, content: str, told_of: str) -> None:
    path = tmp_path / "train.toml"
    path.write_text(content, "utf-8")
    flags = {name: value for name, value in GIVEN.items() if not content.startswith(name)}
    with pytest.raises(TrainingError) as caught:
        read(path, flags)
    assert told_of in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_home_folder_in_a_file_is_the_home_folder(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text('data = ["~/photos"]\nout = "mine.safetensors"\n', "utf-8")
    (found,) = read(path, {}).data
    assert Path(str(found)).expanduser() == Path("~/photos").expanduser()


@pytest.mark.parametrize(
    "values",
    [
        *({"out": out} for out in (HALF + ".safetensors", "a\0.safetensors", ".", "/")),
        *({"cache": cache} for cache in ("a\0b", HALF)),
        *({name: HALF} for name in ("trigger", "caption", "few_step")),
        *({name: [HALF]} for name in ("prompts", "prior_prompts")),
        {"data": [""]},
    ],
    ids=lambda values: ascii(values)[:60],
)
def test_odd_texts(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    """What no file system and no tokenizer takes."""
    skip_simulation(monkeypatch)
    photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos")
    own, before = settings(tmp_path, tiny_model), files(tmp_path)
    with pytest.raises(DanqingError):
        told(changed(own, **values))
    assert files(tmp_path).keys() - before.keys() <= {"mine.run/lock", "mine.run/settings.toml"}


def test_repeats_have_a_limit(tiny_model: Path, tmp_path: Path) -> None:
    """A list of so many pictures would fill any memory."""
    folder = photos(tmp_path / "photos")

    def look(entry: Any) -> None:
        own = settings(tmp_path, tiny_model, data=[entry])
        prepare.find_pictures(own, prepare.place_of(own, CPU))

    for entry in (f"{folder}*1000000000000", {"path": str(folder), "repeats": 10**12}):
        with pytest.raises(DanqingError, match="repeats"):
            look(entry)


@pytest.mark.parametrize(
    "entry",
    [
        "{}*0",
        "{}*-1",
        "{}*2.5",
        "{}*",
        "{}*x",
        "x" * 5000,
        "a\0b",
        "a\nb",
        HALF,
    ],
    ids=lambda entry: ascii(entry)[:20],
)
def test_odd_places_of_data(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    skip_simulation(monkeypatch)
    own = settings(tmp_path, tiny_model)
    folder, before = photos(tmp_path / "photos"), files(tmp_path)
    with pytest.raises(DanqingError) as caught:
        told(changed(own, data=[entry.format(folder)]))
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == before
