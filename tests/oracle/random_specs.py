"""Which random small models the oracle tests use: everything that follows from a seed.

A specification is what the published JSON files can say, drawn small. No weights here.
"""

from dataclasses import dataclass, replace
from random import Random
from typing import Any

PUBLISHED_SCHEDULE: dict[str, Any] = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
}


@dataclass(frozen=True)
class Spec:
    """A random model: the configurations of its networks, and how its folder is written."""

    seed: int
    transformer: dict[str, Any]
    text: dict[str, Any]
    vae: dict[str, Any]
    schedule: dict[str, Any]
    tied: bool  # lm_head and embedding are one tensor
    sharded: bool
    flat: bool  # text_encoder/config.json as older transformers wrote it
    renamed: bool  # model.language_model.layers.* in place of model.layers.*

    def with_transformer(self, **changes: Any) -> "Spec":
        return replace(self, transformer={**self.transformer, **changes})

    def with_vae(self, **changes: Any) -> "Spec":
        return replace(self, vae={**self.vae, **changes})

    def with_schedule(self, **changes: Any) -> "Spec":
        return replace(self, schedule={**self.schedule, **changes})


def draw(seed: int) -> Spec:
    """The specification of this seed; folders alternate in what they look like."""
    chance = Random(seed)
    text = draw_text(chance)
    vae = draw_vae(chance)
    return Spec(
        seed=seed,
        transformer=draw_transformer(chance, text["hidden_size"], vae["z_dim"]),
        text=text,
        vae=vae,
        schedule=dict(PUBLISHED_SCHEDULE),
        tied=seed % 3 == 1,
        sharded=seed % 2 == 1,
        flat=seed // 2 % 2 == 1,
        renamed=seed // 4 % 2 == 1,
    )


def draw_transformer(chance: Random, joint: int, z_dim: int) -> dict[str, Any]:
    head_dim = chance.choice((8, 16, 24, 32))
    patch, out = chance.choice(((2, z_dim), (2, z_dim), (1, 4 * z_dim)))
    return {
        "patch_size": patch,
        "in_channels": 4 * z_dim,
        "out_channels": out,
        "num_layers": chance.randint(1, 4),
        "attention_head_dim": head_dim,
        "num_attention_heads": chance.randint(1, 4),
        "joint_attention_dim": joint,
        "axes_dims_rope": draw_axes(chance, head_dim),
    }


def draw_axes(chance: Random, head_dim: int) -> tuple[int, int, int]:
    """Three even numbers from 2 up that sum to ``head_dim``."""
    first, second = sorted(chance.sample(range(1, head_dim // 2), 2))
    return 2 * first, 2 * (second - first), head_dim - 2 * second


def draw_text(chance: Random) -> dict[str, Any]:
    head_dim = chance.choice((8, 12, 16))
    heads, groups = chance.choice(((1, 1), (2, 1), (2, 2), (4, 2), (4, 1), (6, 2), (6, 3)))
    return {
        "hidden_size": heads * head_dim,
        "intermediate_size": chance.choice((40, 64, 96)),
        "num_hidden_layers": chance.randint(1, 3),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "rms_norm_eps": chance.choice((1e-6, 1e-5)),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": chance.choice((1e4, 1e6)),
            "mrope_section": [1, 1, head_dim // 2 - 2],
        },
    }


def draw_vae(chance: Random) -> dict[str, Any]:
    z_dim = chance.choice((4, 16, 16))
    return {
        # Below 12 channels the norm of a random pixel comes near 0 and dividing by it blows up
        # the rounding of either implementation (checked against float64).
        "base_dim": chance.choice((12, 16, 24)),
        "z_dim": z_dim,
        "dim_mult": chance.choice(([1, 2, 4, 4], [1, 2, 2, 4], [2, 1, 3, 2], [1, 1, 2, 1])),
        "num_res_blocks": chance.randint(1, 2),
        "attn_scales": chance.choice(([], [], [0.5], [1.0, 0.25], [0.125])),
        "temperal_downsample": [chance.random() < 0.5 for _ in range(3)],
        "latents_mean": [chance.gauss(0, 0.7) for _ in range(z_dim)],
        "latents_std": [chance.uniform(0.5, 3.0) for _ in range(z_dim)],
    }
