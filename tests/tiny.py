"""A tiny model folder in the diffusers layout, with random weights and a tokenizer made here.

It paints nonsense in milliseconds. All widths are multiples of 64, as those of real models are:
matrices of other widths have seams where bits may depend on the neighbours.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn

from danqing.models.text_encoder import TextEncoder, TextEncoderConfig
from danqing.models.tokenizer import PREFIX, SUFFIX
from danqing.models.transformer import Transformer, TransformerConfig
from danqing.models.vae import VAE, VAEConfig
from danqing.sampling.schedule import ScheduleConfig
from danqing.weights.export import save_component

TRANSFORMER = TransformerConfig(
    num_layers=3,
    attention_head_dim=32,
    num_attention_heads=2,
    joint_attention_dim=64,
    axes_dims_rope=(8, 12, 12),
)
TEXT = TextEncoderConfig(
    vocab_size=448,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
VAE_CONFIG = VAEConfig(base_dim=16, num_res_blocks=1)
CARD = {"size": [64, 64], "steps": 2, "guidance": 2.0}
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CLASSES = {
    "transformer": "QwenImageTransformer2DModel",
    "vae": "AutoencoderKLQwenImage",
    "scheduler": "FlowMatchEulerDiscreteScheduler",
}


def write_model(folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """The whole folder; ``danqing.load`` opens it."""
    for component, network in networks(seed).items():
        save_component(component, network, folder, dtype=dtype)
    write_settings(folder)
    write_tokenizer(folder / "tokenizer")
    return folder


def networks(seed: int = 0) -> dict[str, nn.Module]:
    """The three networks with random weights: their gains and biases are random as well."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = {
            "text_encoder": TextEncoder(TEXT),
            "transformer": Transformer(TRANSFORMER),
            "vae": VAE(VAE_CONFIG),
        }
        for network in found.values():
            randomise(network)
    return found


@torch.no_grad()
def randomise(network: nn.Module) -> None:
    network.requires_grad_(False).eval()
    for parameter in network.parameters():
        if parameter.squeeze().ndim < 2:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def write_settings(folder: Path) -> None:
    index = {
        "_class_name": "QwenImagePipeline",
        "scheduler": ["diffusers", CLASSES["scheduler"]],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", CLASSES["transformer"]],
        "vae": ["diffusers", CLASSES["vae"]],
    }
    # As published: keys that say nothing about a network for text to image come along.
    transformer = {**asdict(TRANSFORMER), "guidance_embeds": False, "pooled_projection_dim": 768}
    schedule = {**asdict(ScheduleConfig()), "num_train_timesteps": 1000, "invert_sigmas": False}
    text = {"model_type": "qwen2_5_vl", "hidden_act": "silu", **asdict(TEXT)}
    write(folder / "model_index.json", index)
    write(folder / "transformer" / "config.json", classed("transformer", transformer))
    write(folder / "vae" / "config.json", classed("vae", asdict(VAE_CONFIG)))
    write(folder / "scheduler" / "scheduler_config.json", classed("scheduler", schedule))
    write(folder / "text_encoder" / "config.json", text)
    write(folder / "danqing.json", CARD)


def classed(name: str, values: dict[str, Any]) -> dict[str, Any]:
    return {"_class_name": CLASSES[name], "_diffusers_version": "0.42.1", **values}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), "utf-8")


def change(path: Path, **values: Any) -> None:
    """Overwrite keys of a JSON file."""
    write(path, json.loads(path.read_text("utf-8")) | values)


# ---- the tokenizer ----------------------------------------------------------------------------


def write_tokenizer(folder: Path) -> None:
    """As the published checkpoint has it: vocab.json, merges.txt, and the added tokens apart."""
    vocab, merges = bpe()
    write(folder / "vocab.json", vocab)
    lines = "\n".join(("#version: 0.2", *(f"{a} {b}" for a, b in merges), ""))
    (folder / "merges.txt").write_text(lines, "utf-8")
    added = {token: len(vocab) + n for n, token in enumerate(SPECIALS)}
    write(folder / "added_tokens.json", added)
    decoder = {str(n): {"content": token, "special": True} for token, n in added.items()}
    write(folder / "tokenizer_config.json", {"added_tokens_decoder": decoder})


def bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """All 256 bytes, and the template's words, each grown from its first byte."""
    words = f"{PREFIX} {SUFFIX}".replace("\n", " ").replace("|", " ").replace(",", " ").split(" ")
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        letters = word.strip("<>:")
        spaced = (
            letters if letters in ("system", "Describe", "user", "assistant") else f"Ġ{letters}"
        )
        merges |= {(spaced[:n], spaced[n]): None for n in range(1, len(spaced))}
    tokens = [*sorted(ByteLevel.alphabet()), *(a + b for a, b in merges)]
    return {token: n for n, token in enumerate(tokens)}, list(merges)


# ---- inputs -----------------------------------------------------------------------------------


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers that depend on nothing but shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def transformer(**values: Any) -> Transformer:
    """A random transformer in the tiny sizes but for ``values``."""
    return seeded(lambda: Transformer(replace(TRANSFORMER, **values)))


def vae(**values: Any) -> VAE:
    return seeded(lambda: VAE(replace(VAE_CONFIG, **values)))


def text_encoder(**values: Any) -> TextEncoder:
    return seeded(lambda: TextEncoder(replace(TEXT, **values)))


def seeded(make: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make()
        randomise(network)
    return network


def pieces(x: Tensor) -> list[Tensor]:
    """All rows, in groups of 1, 2, 3, ..., each in memory of its own."""
    sizes = list(range(1, 20))
    return [part.clone() for part in x.split([*sizes, len(x) - sum(sizes)])]
