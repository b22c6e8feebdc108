"""Which tensors of a published file make which parameter of ours, as tables.

A rule reads "our name: the file's names"; ``{i}`` stands for a layer number and ``{p}`` for
``weight`` or ``bias``. Several names are parts of one fused matrix, stacked by rows. The tables
are read in both directions: loading and saving.
"""

import re
from dataclasses import dataclass, field

Rules = dict[str, tuple[str, ...]]


def _stream(ours: str, mod: str, qkv: tuple[str, ...], norm: str, out: str, mlp: str) -> Rules:
    block, attention = "transformer_blocks.{i}", "transformer_blocks.{i}.attn"
    return {
        f"blocks.{{i}}.{ours}.mod.{{p}}": (f"{block}.{mod}.1.{{p}}",),
        f"blocks.{{i}}.{ours}.qkv.{{p}}": tuple(f"{attention}.{name}.{{p}}" for name in qkv),
        f"blocks.{{i}}.{ours}.norm_q.weight": (f"{attention}.{norm}_q.weight",),
        f"blocks.{{i}}.{ours}.norm_k.weight": (f"{attention}.{norm}_k.weight",),
        f"blocks.{{i}}.{ours}.out.{{p}}": (f"{attention}.{out}.{{p}}",),
        f"blocks.{{i}}.{ours}.mlp_in.{{p}}": (f"{block}.{mlp}.net.0.proj.{{p}}",),
        f"blocks.{{i}}.{ours}.mlp_out.{{p}}": (f"{block}.{mlp}.net.2.{{p}}",),
    }


TRANSFORMER: Rules = {
    "time_in.linear_1.{p}": ("time_text_embed.timestep_embedder.linear_1.{p}",),
    "time_in.linear_2.{p}": ("time_text_embed.timestep_embedder.linear_2.{p}",),
    "time_in.additional.weight": ("time_text_embed.addition_t_embedding.weight",),
    "txt_norm.weight": ("txt_norm.weight",),
    "img_in.{p}": ("img_in.{p}",),
    "txt_in.{p}": ("txt_in.{p}",),
    "norm_out.{p}": ("norm_out.linear.{p}",),
    "proj_out.{p}": ("proj_out.{p}",),
    **_stream("img", "img_mod", ("to_q", "to_k", "to_v"), "norm", "to_out.0", "img_mlp"),
    **_stream(
        "txt",
        "txt_mod",
        ("add_q_proj", "add_k_proj", "add_v_proj"),
        "norm_added",
        "to_add_out",
        "txt_mlp",
    ),
}

# The language model keeps the file's names behind a prefix; two prefixes are found in the wild.
TEXT_ENCODER: Rules = {"{name}": ("model.language_model.{name}",)}
TEXT_ENCODER_OLD: Rules = {"{name}": ("model.{name}",)}

VAE: Rules = {"{name}": ("{name}",)}

_FIELDS = {"{i}": r"(?P<i>\d+)", "{p}": r"(?P<p>weight|bias)", "{name}": r"(?P<name>.+)"}


@dataclass(frozen=True)
class Names:
    """The rules of one network, and the file's tensors that it has no use for, by name."""

    rules: Rules
    skip: str = r"(?!)"  # a pattern that matches nothing
    _compiled: list[tuple[re.Pattern[str], tuple[str, ...]]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        compiled = [(_compile(ours), theirs) for ours, theirs in self.rules.items()]
        object.__setattr__(self, "_compiled", compiled)

    def in_file(self, ours: str) -> tuple[str, ...]:
        """The file's names for one of our parameters."""
        for pattern, theirs in self._compiled:
            if match := pattern.fullmatch(ours):
                return tuple(name.format(**match.groupdict()) for name in theirs)
        raise AssertionError(f"no rule names {ours}")

    def skipped(self, theirs: str) -> bool:
        return re.fullmatch(self.skip, theirs) is not None


def _compile(ours: str) -> re.Pattern[str]:
    pattern = re.escape(ours)
    for mark, expression in _FIELDS.items():
        pattern = pattern.replace(re.escape(mark), expression)
    return re.compile(pattern)


# The vision tower, and the head that would make logits of features.
_NOT_TEXT = r"(model\.)?visual\..*|lm_head\.weight"
# The VAE's convolutions over time never run for a single picture.
_TIME = r".*\.time_conv\.(weight|bias)"

NAMES = {
    "transformer": Names(TRANSFORMER),
    "text_encoder": Names(TEXT_ENCODER, skip=_NOT_TEXT),
    "text_encoder_old": Names(TEXT_ENCODER_OLD, skip=_NOT_TEXT),
    "vae": Names(VAE, skip=_TIME),
}
