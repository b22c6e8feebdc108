"""A model folder in the diffusers layout, opened: its networks, filled and in place."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from danqing.errors import ModelError
from danqing.models.text_encoder import TextEncoder
from danqing.models.tokenizer import PromptTokenizer
from danqing.models.transformer import Transformer
from danqing.models.vae import VAE
from danqing.sampling.schedule import ScheduleConfig, check_sigmas
from danqing.weights import configs, loader, plan, vae_fold
from danqing.weights.files import TensorFiles, read_json
from danqing.weights.fingerprint import fingerprint
from danqing.weights.names import NAMES, Names

# Folder of a component -> the stem of its weights files.
STEMS = {
    "text_encoder": "model",
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
PARTS = (*STEMS, "tokenizer", "scheduler")


@dataclass(frozen=True)
class Defaults:
    """What a request gets that does not say; Qwen-Image's unless the folder has a danqing.json.

    ``sizes`` are the (width, height) that the model was trained for; empty: any. ``sigmas`` are
    the levels of the default ``steps``, if they are not the schedule's own. ``adapter`` is one of
    the model's own, for requests that say nothing of how to sample.
    """

    size: tuple[int, int] = (1328, 1328)
    steps: int = 50
    guidance: float = 4.0
    sizes: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Model:
    """The parts that the engine drives."""

    id: str
    folder: Path
    fingerprint: str
    defaults: Defaults
    tokenizer: PromptTokenizer
    text_encoder: TextEncoder
    transformer: Transformer
    vae: VAE
    schedule: ScheduleConfig


def open_model(model: str, folder: Path, device: torch.device, dtype: torch.dtype) -> Model:
    """Read a whole model; ``model`` is the name that recipes will hold."""
    check_parts(folder)
    networks = build(folder)
    plan.check(networks, device, dtype)
    for component, network in networks.items():
        fill(component, network, folder, device, dtype)
    schedule = configs.read_schedule(folder)
    tokenizer = PromptTokenizer.from_folder(folder / "tokenizer")
    text_encoder = cast(TextEncoder, networks["text_encoder"])
    if tokenizer.vocabulary > text_encoder.config.vocab_size:
        raise ModelError(
            f"{folder}: the tokenizer has {tokenizer.vocabulary} tokens, the text encoder only "
            f"{text_encoder.config.vocab_size}; they belong to different models"
        )
    return Model(
        id=model,
        folder=folder,
        fingerprint=fingerprint(folder),
        defaults=read_defaults(folder),
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        transformer=cast(Transformer, networks["transformer"]),
        vae=cast(VAE, networks["vae"]),
        schedule=schedule,
    )


def check_parts(folder: Path) -> None:
    index = read_json(folder / "model_index.json")
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ModelError(
            f"{folder} lacks the folder {missing[0]!r}; a model has {', '.join(PARTS)}"
        )
    name = index.get("_class_name", "QwenImagePipeline")
    if name != "QwenImagePipeline":
        raise ModelError(f"{folder} is a {name}; danqing opens QwenImagePipeline folders")


def build(folder: Path) -> dict[str, nn.Module]:
    """The networks on the meta device: shapes without memory."""
    text, mmdit, vae = (
        configs.read_text_encoder(folder),
        configs.read_transformer(folder),
        configs.read_vae(folder),
    )
    networks = {
        "text_encoder": loader.build(lambda: TextEncoder(text)),
        "transformer": loader.build(lambda: Transformer(mmdit)),
        "vae": loader.build(lambda: VAE(vae)),
    }
    if mmdit.joint_attention_dim != text.hidden_size:
        raise ModelError(
            f"{folder}: the transformer reads text of width {mmdit.joint_attention_dim}, the text "
            f"encoder makes {text.hidden_size}; they belong to different models"
        )
    if not mmdit.in_channels == mmdit.patch_channels == 4 * vae.z_dim:
        raise ModelError(
            f"{folder}: the transformer's patches have {mmdit.in_channels} channels in and "
            f"{mmdit.patch_channels} out, the VAE's latents need {4 * vae.z_dim}"
        )
    return networks


def fill(
    component: str, network: nn.Module, folder: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Read one component's weights."""
    fold: dict[str, Any] = {}
    if component == "vae":
        fold = {"fold": vae_fold.fold, "shapes_in_files": vae_fold.shapes_in_files}
    with TensorFiles(folder / component, STEMS[component]) as files:
        names = names_of(component, files)
        loader.fill(network, files, names, dtype=dtype, device=device, **fold)


def names_of(component: str, files: TensorFiles) -> Names:
    """The naming in use: Qwen2.5-VL was renamed once, and files of both kinds are about."""
    if component == "text_encoder" and any(n.startswith("model.layers.") for n in files.home):
        return NAMES["text_encoder_old"]
    return NAMES[component]


def read_defaults(folder: Path) -> Defaults:
    """The model's own danqing.json, or Qwen-Image's values."""
    path = folder / "danqing.json"
    if not path.is_file():
        return Defaults()
    values = read_json(path)
    values["sizes"] = [tuple(size) for size in values.get("sizes", ())]
    if values.get("sigmas") is not None:
        values["sigmas"] = check_sigmas(values["sigmas"])
    return configs.strict(Defaults, values, path, ignored=set(), fixed={})
