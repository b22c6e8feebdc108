"""A whole training with the tiny model: from pictures to the file, and on from there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import danqing
from danqing.adapters import formats
from danqing.adapters.adapter import Sampling
from danqing.adapters.write import write
from danqing.errors import DataError, TrainingError
from danqing.previews import FEW, FULL, Previews
from danqing.training.loop import Evaluated, Saved, Stepped
from danqing.training.run import Encoding, Finished, Found, Planned, Resumed, Sampled, Told, train
from danqing.training.settings import Settings, read
from danqing.weights.fingerprint import fingerprint
from tests.adapters import make
from tests.training.pictures import photo, save

CPU = torch.device("cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for n in range(12):
        size = [(64, 64), (80, 40), (48, 96)][n % 3]
        save(tmp_path / "photos" / f"{n}.png", photo(size, n))
        (tmp_path / "photos" / f"{n}.txt").write_text(f"a thing {n}\n第{n}个\n", "utf-8")
    return tmp_path / "photos"


@pytest.fixture
def own(tiny_model: Path, photos: Path, tmp_path: Path) -> Settings:
    few = tmp_path / "few.safetensors"
    adapter = make.adapter(only="to_q")
    write(
        type(adapter)(adapter.updates, sampling=Sampling(2, (1.0, 0.5, 0.0), 1.0)), few, "comfyui"
    )
    values = {"rank": 4, "steps": 6, "batch": 2, "rate": 1e-2, "prior": 0.1, "trigger": "ohwx"}
    places = {"data": [str(photos)], "out": str(tmp_path / "mine.safetensors")}
    watched = {"evaluate_every": 3, "sample_every": 3, "save_every": 2, "prompts": ["a", "一只猫"]}
    more = {"model": str(tiny_model), "few_step": str(few), "sample_seeds": [4]}
    return read(None, {**values, **places, **watched, **more})


def told(settings: Settings) -> list[Told]:
    return list(train(settings, CPU, Previews))


def of(events: list[Told], kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


def test_from_pictures_to_a_file(own: Settings, tiny_pipe: danqing.Pipeline) -> None:
    events = told(own)
    assert of(events, Found) == [Found(11, 1, of(events, Found)[0].sizes)]
    assert sum(of(events, Found)[0].sizes.values()) == 11
    assert of(events, Planned)[0].plan.peak > 0
    assert of(events, Encoding)[-1].done == of(events, Encoding)[-1].total
    assert [e.step for e in of(events, Stepped)] == [1, 2, 3, 4, 5, 6]
    assert [e.step for e in of(events, Evaluated)] == [0, 3, 6]
    assert [e.step for e in of(events, Saved)] == [2, 4, 6]
    (done,) = of(events, Finished)
    assert done.step == 6
    adapter = formats.read(Path(own.out))
    assert adapter.base == {"id": Path(own.model).name, "fingerprint": fingerprint(Path(own.model))}
    kept = json.loads(adapter.metadata["danqing_training"])
    assert (kept["settings"]["rank"], kept["settings"]["trigger"], kept["step"]) == (4, "ohwx", 6)
    request = danqing.Request("ohwx", size=(32, 32), adapters={own.out: 1.0})
    assert tiny_pipe.generate(request).recipe["adapters"]


def test_samples_show_the_network_in_training(own: Settings) -> None:
    sampled = of(told(own), Sampled)
    assert [event.step for event in sampled] == [0, 3, 6]
    for event in sampled:
        assert set(event.rows) == {FULL, FEW}
        assert [len(row) for row in event.rows.values()] == [2, 2]
        assert all(isinstance(image, Image.Image) for row in event.rows.values() for image in row)
    _, first, second = (event.rows[FULL][0].tobytes() for event in sampled)
    assert first != second
    assert sampled[0].rows[FULL][0].tobytes() != sampled[0].rows[FEW][0].tobytes()


def test_the_last_sample_is_what_the_written_file_paints(
    own: Settings, tiny_pipe: danqing.Pipeline
) -> None:
    image = of(told(own), Sampled)[-1].rows[FULL][1]
    result = tiny_pipe.generate(danqing.Request("一只猫", seed=4, adapters={own.out: 1.0}))
    difference = torch.tensor([list(image.tobytes()), list(result.image.tobytes())]).float()
    assert float((difference[0] - difference[1]).abs().max()) <= 1


def test_run_again_it_goes_on_and_encodes_nothing(own: Settings) -> None:
    told(own)
    before = Path(own.out).read_bytes()
    events = told(own)
    assert of(events, Resumed) == [Resumed(6)]
    assert not of(events, Encoding)
    assert not of(events, Stepped)
    assert Path(own.out).read_bytes() == before


def test_faults_of_the_data_come_before_any_work(own: Settings, photos: Path) -> None:
    (photos / "3.png").write_bytes(b"no picture")
    (photos / "5.txt").unlink()
    own = read(None, {**own.plain(), "trigger": ""})
    with pytest.raises(DataError, match=r"3\.png") as caught:
        told(own)
    assert "5.png" in str(caught.value)


def test_a_second_process_is_refused(own: Settings) -> None:
    running = train(own, CPU)
    while not isinstance(next(running), Stepped):
        pass
    with pytest.raises(TrainingError, match="another training is running"):
        told(own)
    running.close()
    assert told(own)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"out": "mine.pt"}, "give --out mine.safetensors"),
        ({"data": ["photos*0"]}, "must be a whole number of repeats"),
    ],
)
def test_settings_that_cannot_be(
    own: Settings,
    values: dict[str, object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match=message):
        told(read(None, {**own.plain(), **values}))


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux hands on from parent to child")
def test_the_peak_is_not_that_of_the_process_that_started_this_one() -> None:
    program = (
        "import torch; from danqing.training.run import peak_bytes; "
        "print(peak_bytes(torch.device('cpu')))"
    )
    large = b"\1" * 1024**3
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    assert 0 < int(done.stdout) < len(large)
