"""Stage `train`: the trainings of examples/adapters/*.toml; their results are what ships.

The same as `danqing train lora --config examples/adapters/NAME.toml`, whose result is then copied.
"""

import time
from pathlib import Path

import torch

from danqing.previews import Previews
from danqing.training.loop import Evaluated, Stepped
from danqing.training.run import Finished, Told
from danqing.training.run import train as training
from danqing.training.settings import Settings, read
from recipes.adapters.config import Place
from recipes.mini.files import write_atomic

EXAMPLES = Path(__file__).parents[2] / "examples" / "adapters"
NAMES = ("sunset", "dandan")
SHOWN_EVERY = 25  # steps


def run(place: Place) -> None:
    for name in NAMES:
        train_one(name, read(EXAMPLES / f"{name}.toml", {}))


def train_one(name: str, settings: Settings) -> None:
    started = time.monotonic()
    Path(settings.out).parent.mkdir(parents=True, exist_ok=True)
    for event in training(settings, torch.device("cpu"), Previews):
        show(name, event)
    content = Path(settings.out).read_bytes()
    write_atomic(EXAMPLES / f"{name}.safetensors", content)
    minutes = (time.monotonic() - started) / 60
    print(f"train: {name} {len(content)} bytes, {minutes:.1f} minutes", flush=True)


def show(name: str, event: Told) -> None:
    if isinstance(event, Stepped) and event.step % SHOWN_EVERY == 0:
        print(f"{name}: step {event.step}  loss {event.loss:.4f}  prior {event.prior:.4f}")
    elif isinstance(event, Evaluated):
        print(f"{name}: step {event.step}  {event.measured}")
    elif isinstance(event, Finished):
        print(f"{name}: {', '.join(map(str, event.paths))}", flush=True)
