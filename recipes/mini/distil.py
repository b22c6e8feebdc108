"""Stage `distil`: fifty guided steps of `mini` become four and eight, as adapters of its own.

The same as `danqing distill --config recipes/mini/NAME.toml --model runs/mini/model`, whose results
then go into the model's folder; four steps become what it does by itself.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from danqing.adapters import formats
from danqing.adapters import write as writing
from danqing.training.distill.loop import Evaluated, Stepped
from danqing.training.distill.run import Noded, Told, distill
from danqing.training.distill.settings import read
from danqing.training.loop import DONE
from danqing.training.results import METADATA
from danqing.training.run import Finished
from recipes.mini.config import Config
from recipes.mini.files import read_json, write_json

NAMES = ("imitation-4", "lightning-4", "lightning-8", "lightning-2-to-8")
SHIPPED = ("lightning-4", "lightning-8")  # the others are what they are compared with
DEFAULT = "lightning-4"
MODEL = "mini"
SHOWN_EVERY = 20  # steps


def run(config: Config, runs: Path, minutes: float | None) -> None:
    folder, model = runs / "distill", runs / "model"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        started = time.monotonic()
        flags: dict[str, Any] = {"model": str(model), "out": str(folder / f"{name}.safetensors")}
        flags |= {"cache": str(folder), **({"minutes": minutes} if minutes else {})}
        settings = read(Path(__file__).with_name(f"{name}.toml"), flags)
        if settings.start:  # another of them, in the folder of these runs
            settings = replace(settings, start=str(folder / Path(settings.start).name))
        for event in distill(settings, device):
            show(name, event)
            if isinstance(event, Finished) and event.reason != DONE:
                return  # the same command goes on; what is not whole does not ship
        print(f"distil: {name} {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    adapters = model / "adapters"
    adapters.mkdir(exist_ok=True)
    for name in SHIPPED:
        ship(folder / f"{name}.safetensors", adapters / f"{name}.safetensors")
    write_json(model / "danqing.json", {**read_json(model / "danqing.json"), "adapter": DEFAULT})


def ship(source: Path, target: Path) -> None:
    """The same adapter, of a base that is called as it ships."""
    adapter = formats.read(source)
    made = json.loads(adapter.metadata[METADATA])
    made["settings"]["model"] = MODEL
    metadata = {**adapter.metadata, METADATA: json.dumps(made, sort_keys=True)}
    named = replace(adapter, base={**(adapter.base or {}), "id": MODEL}, metadata=metadata)
    writing.write(named, target, "diffusers", overwrite=True)


def show(name: str, event: Told) -> None:
    if isinstance(event, Stepped) and event.step % SHOWN_EVERY == 0:
        losses = "  ".join(f"{key} {value:.4f}" for key, value in event.losses.items())
        print(f"{name}: step {event.step}  {losses}  {event.seconds:.2f} s", flush=True)
    elif isinstance(event, Noded):
        print(f"{name}: nodes {[round(node, 4) for node in event.nodes]}", flush=True)
    elif isinstance(event, Evaluated):
        back = "" if event.back is None else f"  back to step {event.back}"
        print(f"{name}: step {event.step}  {event.figures}{back}", flush=True)
    elif isinstance(event, Finished):
        print(f"{name}: {event.reason}", flush=True)
