"""A key that would change the network and is not built is an error, never ignored."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from danqing.errors import ModelError
from danqing.models.transformer import TransformerConfig
from danqing.models.vae import VAEConfig
from danqing.sampling.schedule import ScheduleConfig
from danqing.weights import configs
from tests import tiny

READERS = {
    "transformer/config.json": configs.read_transformer,
    "vae/config.json": configs.read_vae,
    "scheduler/scheduler_config.json": configs.read_schedule,
    "text_encoder/config.json": configs.read_text_encoder,
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
Reader = Callable[[Path], Any]


def written(folder: Path, reader: Reader, values: dict[str, Any]) -> Any:
    """What ``reader`` makes of a file that holds just ``values``."""
    path = next(path for path, function in READERS.items() if function is reader)
    tiny.write(folder / path, values)
    return reader(folder)


def test_the_tiny_folder_is_read_as_it_was_written(tiny_model: Path) -> None:
    assert configs.read_transformer(tiny_model) == tiny.TRANSFORMER
    assert configs.read_vae(tiny_model) == tiny.VAE_CONFIG
    assert configs.read_schedule(tiny_model) == ScheduleConfig()
    assert configs.read_text_encoder(tiny_model) == tiny.TEXT


def test_what_a_file_leaves_out_is_the_published_value(tmp_path: Path) -> None:
    assert written(tmp_path, configs.read_transformer, {}) == TransformerConfig()
    assert written(tmp_path, configs.read_vae, {}) == VAEConfig()


def test_what_a_schedule_leaves_out_is_the_classs_value(tmp_path: Path) -> None:
    """Not Qwen-Image's: its own file says everything that it needs."""
    found = written(tmp_path, configs.read_schedule, FLOW)
    assert not found.use_dynamic_shifting
    assert (found.max_shift, found.max_image_seq_len, found.shift_terminal) == (1.15, 4096, None)


@pytest.mark.parametrize("path", READERS)
def test_a_missing_file_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(ModelError, match=f"{path} is missing"):
        READERS[path](tmp_path)


@pytest.mark.parametrize("path", [p for p in READERS if "text" not in p])
def test_an_unknown_key_is_named(tiny_copy: Path, path: str) -> None:
    tiny.change(tiny_copy / path, flux_capacitor=1.21)
    with pytest.raises(ModelError, match=f"{path}: key 'flux_capacitor' is not known"):
        READERS[path](tiny_copy)


REFUSED: list[tuple[Reader, dict[str, Any], str]] = [
    (configs.read_transformer, {"guidance_embeds": True}, "guidance_embeds is True, only False"),
    (configs.read_transformer, {"axes_dims_rope": [8, 8, 8]}, "must sum to attention_head_dim 128"),
    (configs.read_vae, {"is_residual": True}, "is_residual is True"),
    (configs.read_vae, {"input_channels": 12}, "input_channels is 12, only 3"),
    (configs.read_vae, {"z_dim": 8}, "latents_mean and latents_std need 8 numbers"),
    (configs.read_schedule, {"_class_name": "DPMSolver"}, "scheduler DPMSolver is not known"),
    (configs.read_schedule, {"use_karras_sigmas": True}, "use_karras_sigmas is True"),
    (configs.read_schedule, {"stochastic_sampling": True}, "stochastic_sampling is True"),
    (configs.read_text_encoder, {"hidden_act": "gelu"}, "hidden_act is 'gelu', only 'silu'"),
    (configs.read_text_encoder, {"use_sliding_window": True}, "use_sliding_window is True"),
    (
        configs.read_text_encoder,
        {"rope_scaling": {"rope_type": "yarn"}},
        "rope_type 'yarn' is not known",
    ),
    (configs.read_schedule, {"time_shift_type": "cubic"}, "time_shift_type"),
    (configs.read_text_encoder, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
    (configs.read_transformer, {"num_layers": "three"}, "num_layers"),
    (configs.read_text_encoder, {"text_config": None}, "text_config"),
]


@pytest.mark.parametrize(
    ("reader", "values", "message"),
    REFUSED,
)
def test_what_cannot_be_built_is_refused(
    tmp_path: Path, reader: Reader, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        written(tmp_path, reader, values)


def test_keys_without_effect_are_let_through(tmp_path: Path) -> None:
    transformer = {"pooled_projection_dim": 768, "guidance_embeds": None, "zero_cond_t": True}
    assert written(tmp_path, configs.read_transformer, transformer) == TransformerConfig()
    assert written(tmp_path, configs.read_vae, {"dropout": 0.1}) == VAEConfig()


def test_channels_out_may_follow_channels_in(tmp_path: Path) -> None:
    values = {"in_channels": 32, "out_channels": None}
    assert written(tmp_path, configs.read_transformer, values).out_channels == 32


def test_text_settings_lie_at_either_level(tmp_path: Path) -> None:
    values = asdict(tiny.TEXT)
    old = written(tmp_path, configs.read_text_encoder, values)
    rope = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
    text = {**values, "rope_parameters": rope}
    new = written(tmp_path, configs.read_text_encoder, {"vision_config": {}, "text_config": text})
    assert old == new == tiny.TEXT


def test_the_multimodal_rope_of_older_files_is_known(tmp_path: Path) -> None:
    values = {**asdict(tiny.TEXT), "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    assert written(tmp_path, configs.read_text_encoder, values) == tiny.TEXT


def test_the_base_of_rope_may_stand_with_its_parameters(tmp_path: Path) -> None:
    values = {**asdict(tiny.TEXT), "rope_theta": None, "rope_parameters": {"rope_theta": 5e5}}
    assert written(tmp_path, configs.read_text_encoder, values).rope_theta == 5e5


def test_without_groups_every_head_has_its_own_keys(tmp_path: Path) -> None:
    values = {k: v for k, v in asdict(tiny.TEXT).items() if k != "num_key_value_heads"}
    assert written(tmp_path, configs.read_text_encoder, values).num_key_value_heads == 4
