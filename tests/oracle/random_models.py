"""Random small oracle pipelines, saved as folders in the diffusers layout and opened by danqing.

Every parameter is drawn anew at a sizeable scale: under the libraries' own initial values (ones for
gains, zeros for biases, small weights) a wrong formula could hide.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from danqing.engine import Pipeline, load

from .random_specs import Spec
from .tiny_tokenizer import tiny_tokenizer

NETWORKS = ("transformer", "text_encoder", "vae")


@dataclass(frozen=True)
class Pair:
    """The same model twice: the oracle's pipeline, and danqing's from the folder."""

    spec: Spec
    folder: Path
    oracle: QwenImagePipeline
    pipe: Pipeline


def make_pair(spec: Spec, folder: Path) -> Pair:
    oracle = build(spec)
    save(oracle, spec, folder)
    return Pair(spec, folder, oracle, load(str(folder), device="cpu"))


def build(spec: Spec) -> QwenImagePipeline:
    """The oracle's pipeline with random weights in float32."""
    parts = {
        "transformer": QwenImageTransformer2DModel(**spec.transformer),
        "text_encoder": build_text_encoder(spec),
        "vae": AutoencoderKLQwenImage(**spec.vae),
    }
    for network in parts.values():
        randomise(network, spec.seed)
    pipeline = QwenImagePipeline(
        tokenizer=tiny_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(**spec.schedule),
        **parts,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_text_encoder(spec: Spec) -> Qwen2_5_VLForConditionalGeneration:
    vocabulary = len(tiny_tokenizer()) + 7  # the published table is larger than its tokenizer, too
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "patch_size": 4,
        "window_size": 8,
        "fullatt_block_indexes": [0],
        "out_hidden_size": spec.text["hidden_size"],
    }
    text = {**spec.text, "vocab_size": vocabulary, "max_position_embeddings": 4096}
    config = Qwen2_5_VLConfig(
        text_config={**text, "bos_token_id": 0, "eos_token_id": 0},
        vision_config=vision,
        tie_word_embeddings=spec.tied,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


@torch.no_grad()
def randomise(network: nn.Module, seed: int) -> None:
    """Weights that keep the signal's scale; gains in [0.5, 1.5]; biases of 0.3; no gradients."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if name.endswith("gamma") or (name.endswith("weight") and parameter.ndim == 1):
            parameter.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.3, generator=generator)
        else:
            parameter.normal_(0, spread(name, parameter), generator=generator)
    network.eval().requires_grad_(False)


def spread(name: str, weight: torch.Tensor) -> float:
    if "embed" in name and weight.ndim == 2 and "linear" not in name:
        return 1.0
    # Of a kernel over time a single frame meets the last slice only.
    depth = weight.shape[2] if weight.ndim == 5 else 1
    size = (weight.numel() / weight.shape[0] / depth) ** -0.5
    return 0.6 * size if "_mod." in name or "decoder.conv_out" in name else size


def save(pipeline: QwenImagePipeline, spec: Spec, folder: Path) -> None:
    pipeline.save_pretrained(folder)
    if spec.sharded:
        for component in NETWORKS:
            shard(getattr(pipeline, component), folder / component)
    if spec.renamed:
        rename_tensors(folder / "text_encoder")
    if spec.flat:
        flatten_config(folder / "text_encoder" / "config.json")


def shard(network: nn.Module, folder: Path) -> None:
    """Write a component again, in three files or more."""
    (path,) = folder.glob("*.safetensors")
    size = path.stat().st_size
    path.unlink()
    network.save_pretrained(folder, max_shard_size=size // 3)
    assert len(list(folder.glob("*.safetensors"))) >= 3


def rename_tensors(folder: Path) -> None:
    """The text encoder's tensors under the names that transformers 4.52 to 4.57 gave them."""
    for path in sorted(folder.glob("*.safetensors")):
        tensors = {newer_name(name): tensor for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    for path in folder.glob("*.index.json"):
        index = json.loads(path.read_text("utf-8"))
        index["weight_map"] = {newer_name(n): file for n, file in index["weight_map"].items()}
        path.write_text(json.dumps(index), "utf-8")


def newer_name(name: str) -> str:
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def flatten_config(path: Path) -> None:
    """The text part at the top level and the rotary settings in two keys, as in older files."""
    config = json.loads(path.read_text("utf-8"))
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    kind = text.pop("model_type")
    flat = {
        "rope_theta": rope.pop("rope_theta"),
        "rope_scaling": {**rope, "type": rope["rope_type"]},
    }
    merged = {**text, **config, **flat}
    assert merged["model_type"] != kind
    path.write_text(json.dumps(merged), "utf-8")
