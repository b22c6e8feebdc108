"""A tensor's key in an adapter file: prefix, layer and part, in every naming that is about.

``lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight`` is the prefix ``lora_unet_``, the
layer ``transformer_blocks.0.attn.to_q`` and the part ``down``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from danqing.adapters.refusal import Refuse
from danqing.adapters.targets import published

# What tools put before a layer's name; several may stand one behind the other.
DOTTED = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "pipe.dit.",
)
FLAT = ("lora_unet_", "lora_transformer_", "lycoris_")
TOOLS = {
    "transformer.": "diffusers",
    "diffusion_model.": "ComfyUI",
    "base_model.model.": "PEFT",
    "pipe.dit.": "DiffSynth",
    "lora_unet_": "kohya",
    "lycoris_": "LyCORIS",
}
# PEFT puts the adapter's own name into a key: lora_A.default.weight.
_INFIX = r"(?:\.(?P<infix>(?!weight$|bias$|weight\.|bias\.)[\w-]+))?"
PARTS = {
    rf"\.lora_A{_INFIX}(\.weight)?": "down",
    rf"\.lora_B{_INFIX}(\.weight)?": "up",
    rf"\.lora_B{_INFIX}\.bias": "up_bias",
    r"\.lora_down\.weight": "down",
    r"\.lora_up\.weight": "up",
    r"[._]lora\.down\.weight": "down",
    r"[._]lora\.up\.weight": "up",
    r"\.lora_linear_layer\.down\.weight": "down",
    r"\.lora_linear_layer\.up\.weight": "up",
    r"\.alpha": "alpha",
    r"\.dora_scale": "magnitude",
    rf"\.lora_magnitude_vector{_INFIX}(\.weight)?": "magnitude",
    rf"\.(?P<same>lokr_w[12](_[ab])?|hada_w[12]_[ab]){_INFIX}": "",  # the part's own name
    r"\.(diff|w_norm)": "diff",
    r"\.(diff_b|b_norm)": "bias",
}
_PARTS = [(re.compile(rf"(?P<layer>.+)(?:{p})"), part) for p, part in PARTS.items()]
TEXT_ENCODER = re.compile(r"(base_model\.model\.)?(text_encoders?|lora_te\d?|te\d?|text_model)[._]")
# Names of layers by which adapters of other networks are known.
OTHERS = {
    "single_transformer_blocks": "FLUX",
    "double_blocks": "FLUX or HunyuanVideo",
    "single_blocks": "FLUX or HunyuanVideo",
    "joint_blocks": "Stable Diffusion 3",
    "down_blocks": "Stable Diffusion",
    "input_blocks": "Stable Diffusion",
    "cross_attn": "Wan",
    "feed_forward_w1": "Z-Image or Lumina",
    "feed_forward.w1": "Z-Image or Lumina",
}


@dataclass(frozen=True)
class Key:
    """A tensor's key, understood."""

    text: str
    prefix: str
    layer: str  # by its published name
    part: str
    infix: str | None = None


def understand(texts: Iterable[str], refuse: Refuse) -> list[Key]:
    """Every key; an error if there is one that is not a layer's."""
    texts = sorted(texts)
    if not texts:
        refuse("holds no tensor; it is not an adapter", ["0 tensors"])
    refuse(
        "changes the text encoder, which danqing leaves as it is (remove these tensors)",
        [text for text in texts if TEXT_ENCODER.match(text)],
    )
    found = {text: read_key(text) for text in texts}
    unknown = [text for text, key in found.items() if key is None]
    other = {model for mark, model in OTHERS.items() if any(mark in text for text in unknown)}
    hint = f" (they look like {' or '.join(sorted(other))})" if other else ""
    refuse(f"has {len(unknown)} keys that match no layer of Qwen-Image{hint}", unknown)
    keys = [key for key in found.values() if key is not None]
    names = sorted({key.infix for key in keys if key.infix})
    if len(names) > 1:
        refuse("holds several adapters in one file (split it)", names)
    return keys


def read_key(text: str) -> Key | None:
    for pattern, part in _PARTS:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        prefix, layer = strip(match["layer"])
        if name := published(layer):
            groups = match.groupdict()
            return Key(text, prefix, name, groups.get("same") or part, groups.get("infix"))
    return None


def strip(name: str) -> tuple[str, str]:
    """The prefixes, and what stands behind them."""
    rest = name
    while start := next((p for p in DOTTED if rest.startswith(p)), None):
        rest = rest.removeprefix(start)
    for flat in FLAT:
        if rest.startswith(flat):
            rest = rest.removeprefix(flat)
            break
    return name.removesuffix(rest), rest


def describe(keys: list[Key]) -> str:
    """The naming in words: ``kohya (lora_unet_*, lora_down/lora_up)``."""
    prefixes = sorted({key.prefix for key in keys})
    words = " and ".join(f"{p}*" if p else "no prefix" for p in prefixes)
    plain = [key.text.removeprefix(key.prefix) for key in keys]
    pairs = {
        "lora_A": "lora_A/lora_B",
        "lora_down": "lora_down/lora_up",
        "lora.down": "lora.down/up",
    }
    pairs |= {"lokr_": "LoKr", "hada_": "LoHa", ".diff": "diff", "w_norm": "diff"}
    styles = [style for mark, style in pairs.items() if any(mark in text for text in plain)]
    tool = TOOLS.get(prefixes[0]) if len(prefixes) == 1 else None
    if prefixes == [""]:
        tool = "PEFT" if "lora_A/lora_B" in styles else "Lightning"
    return f"{tool or 'mixed'} ({', '.join([words, *dict.fromkeys(styles)])})"
