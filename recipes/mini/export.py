"""Stage `export`: the trained networks become a model folder in the diffusers layout, bfloat16.

But for the VAE's kernels, which keep only what a picture meets of them: with the zeros that
diffusers wants (`danqing model export` puts them back) mini would be half as large again.
"""

import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from danqing.models.text_encoder import TextEncoderConfig
from danqing.models.tokenizer import PromptTokenizer
from danqing.models.vae import VAE
from danqing.sampling.schedule import ScheduleConfig
from danqing.training.distill.prompts import OWN
from danqing.weights.export import save_component
from recipes.mini.base import Networks, load_vae
from recipes.mini.captions import draw_caption
from recipes.mini.config import Config
from recipes.mini.files import write_atomic, write_json
from recipes.mini.stream import Stream

DIFFUSERS = "0.42.1"
PROMPTS = 4096
NAMES = {
    "transformer": "QwenImageTransformer2DModel",
    "vae": "AutoencoderKLQwenImage",
    "scheduler": "FlowMatchEulerDiscreteScheduler",
}
# diffusers opens the whole Qwen2.5-VL: the smallest vision tower that it accepts, never run.
VISION = {
    "depth": 0,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 1,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def run(config: Config, runs: Path, minutes: float | None) -> None:
    tokenizer = PromptTokenizer.from_folder(runs / "tokenizer")
    vae = load_vae(runs)
    networks = Networks(config.base, tokenizer.vocabulary, vae.config.z_dim)
    networks.load_state_dict(load_file(runs / "base" / "ema.safetensors"))
    folder = runs / "model"
    if folder.exists():
        shutil.rmtree(folder)
    save_component("transformer", networks.transformer, folder)
    save_component("vae", vae, folder, flat=True)
    text = networks.text_encoder
    save_component("text_encoder", text, folder, extra=vision_tower(text.config.hidden_size))
    write_settings(folder, networks, vae, config)
    shutil.copytree(runs / "tokenizer", folder / "tokenizer")
    write_prompts(folder / OWN, Stream(config.data, runs, "train"))
    shutil.copyfile(Path(__file__).with_name("model_card.md"), folder / "README.md")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"export: {folder}, {size / 2**20:.1f} MiB")


def write_prompts(path: Path, stream: Stream) -> None:
    """What `danqing distill` teaches a student with, where nobody gives other prompts."""
    chance = random.Random("prompts")
    found = [draw_caption(chance, stream.facts(number)) for number in range(PROMPTS)]
    write_atomic(path, ("\n".join(found) + "\n").encode())


def write_settings(folder: Path, networks: Networks, vae: VAE, config: Config) -> None:
    write_json(folder / "model_index.json", model_index())
    mmdit = networks.transformer.config
    # guidance_embeds is a key of the published file; the schedule has more keys than we use.
    transformer = {**asdict(mmdit), "guidance_embeds": False}
    scheduler = {**asdict(ScheduleConfig()), "num_train_timesteps": 1000}
    for name, values in (("transformer", transformer), ("vae", asdict(vae.config))):
        write_json(folder / name / "config.json", classed(name, values))
    write_json(folder / "scheduler" / "scheduler_config.json", classed("scheduler", scheduler))
    text = text_config(networks.text_encoder.config)
    write_json(folder / "text_encoder" / "config.json", text)
    sizes = config.data.sizes
    card = {"size": sizes[0], "steps": 30, "guidance": 4.0, "sizes": sizes}
    write_json(folder / "danqing.json", card)


def classed(name: str, values: dict[str, Any]) -> dict[str, Any]:
    return {"_class_name": NAMES[name], "_diffusers_version": DIFFUSERS, **values}


def model_index() -> dict[str, Any]:
    return {
        "_class_name": "QwenImagePipeline",
        "_diffusers_version": DIFFUSERS,
        "scheduler": ["diffusers", NAMES["scheduler"]],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", NAMES["transformer"]],
        "vae": ["diffusers", NAMES["vae"]],
    }


def text_config(config: TextEncoderConfig) -> dict[str, Any]:
    eighth = config.head_width // 8
    rope = {
        "rope_type": "default",
        "rope_theta": config.rope_theta,
        "mrope_section": [eighth, eighth + eighth // 2, eighth + eighth // 2],
    }
    text = {k: v for k, v in asdict(config).items() if v is not None and k != "rope_theta"}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen2_5_vl_text",
            **text,
            "max_position_embeddings": 4096,
            "rope_parameters": rope,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        "vision_config": {
            "model_type": "qwen2_5_vl",
            **VISION,
            "out_hidden_size": config.hidden_size,
        },
    }


def vision_tower(width: int) -> dict[str, Tensor]:
    """Zeros in the shapes that the reference's class expects for ``VISION``."""
    hidden, merged = (
        VISION["hidden_size"],
        VISION["hidden_size"] * VISION["spatial_merge_size"] ** 2,
    )
    patch = (hidden, 3, VISION["temporal_patch_size"], VISION["patch_size"], VISION["patch_size"])
    shapes = {
        "model.visual.patch_embed.proj.weight": patch,
        "model.visual.merger.ln_q.weight": (hidden,),
        "model.visual.merger.mlp.0.weight": (merged, merged),
        "model.visual.merger.mlp.0.bias": (merged,),
        "model.visual.merger.mlp.2.weight": (width, merged),
        "model.visual.merger.mlp.2.bias": (width,),
    }
    return {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
