"""From the JSON files of a checkpoint to the networks' configurations, strictly.

A key that would change the network and that danqing does not build is an error, never ignored.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args

from danqing.errors import ModelError
from danqing.models.text_encoder import TextEncoderConfig
from danqing.models.transformer import TransformerConfig
from danqing.models.vae import VAEConfig
from danqing.sampling.schedule import ScheduleConfig, ShiftType
from danqing.weights.files import read_json

C = TypeVar("C")

# Keys without effect on a text-to-image network, and keys of which only one value can be built.
TRANSFORMER_IGNORED = {"pooled_projection_dim", "zero_cond_t"}
TRANSFORMER_FIXED = {"guidance_embeds": False}
VAE_IGNORED = {"dropout"}
VAE_FIXED = {"input_channels": 3, "is_residual": False}
SCHEDULE_IGNORED = {"num_train_timesteps", "shift_terminal"}
SCHEDULE_FIXED = {
    "invert_sigmas": False,
    "stochastic_sampling": False,
    "use_beta_sigmas": False,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
TEXT_FIXED = {"hidden_act": "silu", "use_sliding_window": False}


def read_transformer(folder: Path) -> TransformerConfig:
    path = folder / "transformer" / "config.json"
    values = read_json(path)
    if values.get("out_channels", 16) is None:
        values["out_channels"] = values.get("in_channels", 64)
    config = strict(TransformerConfig, values, path, TRANSFORMER_IGNORED, TRANSFORMER_FIXED)
    if sum(config.axes_dims_rope) != config.attention_head_dim:
        raise ModelError(
            f"{path}: axes_dims_rope {list(config.axes_dims_rope)} must sum to attention_head_dim "
            f"{config.attention_head_dim}"
        )
    return config


def read_vae(folder: Path) -> VAEConfig:
    path = folder / "vae" / "config.json"
    config = strict(VAEConfig, read_json(path), path, VAE_IGNORED, VAE_FIXED)
    if not len(config.latents_mean) == len(config.latents_std) == config.z_dim:
        raise ModelError(f"{path}: latents_mean and latents_std need {config.z_dim} numbers each")
    return config


def read_schedule(folder: Path) -> ScheduleConfig:
    path = folder / "scheduler" / "scheduler_config.json"
    values = read_json(path)
    name = values.get("_class_name", "FlowMatchEulerDiscreteScheduler")
    if name != "FlowMatchEulerDiscreteScheduler":
        raise ModelError(f"{path}: scheduler {name} is not known; Qwen-Image's is flow-match Euler")
    # The class defaults of the reference, not Qwen-Image's, stand for what the file leaves out.
    left_out = {
        "use_dynamic_shifting": False,
        "max_shift": 1.15,
        "max_image_seq_len": 4096,
        "shift_terminal": None,
    }
    values = {**left_out, **values}
    config = strict(ScheduleConfig, values, path, SCHEDULE_IGNORED, SCHEDULE_FIXED)
    if config.time_shift_type not in get_args(ShiftType):
        raise ModelError(
            f"{path}: time_shift_type {config.time_shift_type!r} is not known; use "
            f"{' or '.join(get_args(ShiftType))}"
        )
    return config


def read_text_encoder(folder: Path) -> TextEncoderConfig:
    """The text part; older files have it at the top level, newer ones under ``text_config``."""
    path = folder / "text_encoder" / "config.json"
    whole = read_json(path)
    nested = whole.get("text_config", {})
    if not isinstance(nested, dict):
        raise ModelError(f"{path}: text_config is {nested!r}, expected an object")
    values = {**whole, **nested}
    check_fixed(values, TEXT_FIXED, path)
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", "mrope"):
        raise ModelError(f"{path}: rope_type {kind!r} is not known; use 'default'")
    known = {f.name for f in fields(TextEncoderConfig)}
    chosen = {k: v for k, v in values.items() if k in known and v is not None}
    if "rope_theta" in rope:
        chosen["rope_theta"] = rope["rope_theta"]
    chosen.setdefault("num_key_value_heads", values.get("num_attention_heads"))
    return make(TextEncoderConfig, chosen, path)


def strict(
    cls: type[C], values: dict[str, Any], path: Path, ignored: set[str], fixed: dict[str, Any]
) -> C:
    """A configuration from a JSON object in which every key is known."""
    check_fixed(values, fixed, path)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    public = {k: v for k, v in values.items() if not k.startswith("_")}
    unknown = sorted(set(public) - known - ignored - set(fixed))
    if unknown:
        raise ModelError(f"{path}: key {unknown[0]!r} is not known to this version of danqing")
    return make(cls, {k: v for k, v in public.items() if k in known}, path)


def check_fixed(values: dict[str, Any], fixed: dict[str, Any], path: Path) -> None:
    for key, only in fixed.items():
        found = values.get(key, only)
        if found != only and not (found is None and only is False):
            raise ModelError(f"{path}: {key} is {found!r}, only {only!r} can be built")


def make(cls: type[C], values: dict[str, Any], path: Path) -> C:
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for field in fields(cls):  # type: ignore[arg-type]
        found = lists.get(field.name)
        if field.type is int and field.name in lists and type(found) is not int:
            raise ModelError(f"{path}: {field.name} is {found!r}, expected a whole number")
    try:
        return cls(**lists)
    except TypeError as error:
        raise ModelError(f"{path}: {error}") from error
