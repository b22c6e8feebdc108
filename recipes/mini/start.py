"""Stage `start`: a model folder becomes the beginning of a training: tokenizer, VAE and networks.

Where a training ended an edition, another one can go on from it; its optimisers begin anew.
"""

import shutil
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file

import danqing
from recipes.mini.base import START
from recipes.mini.config import Config
from recipes.mini.files import write_json


def run(config: Config, runs: Path, minutes: float | None) -> None:
    model = danqing.load(config.start.model, dtype="float32").model
    for folder in ("vae", "base"):
        (runs / folder).mkdir(parents=True, exist_ok=True)
    shutil.copytree(model.folder / "tokenizer", runs / "tokenizer", dirs_exist_ok=True)
    if config.start.vae:
        write_json(runs / "vae" / "config.json", asdict(model.vae.config))
        save_file(dict(model.vae.state_dict()), runs / "vae" / "vae.safetensors")
    parts = {"text_encoder": model.text_encoder, "transformer": model.transformer}
    state = {f"{part}.{n}": t for part, own in parts.items() for n, t in own.state_dict().items()}
    save_file(state, runs / "base" / START)
    print(f"start: {model.folder} lies in {runs}")
