"""PEFT's settings of an adapter: rank and alpha by patterns of layer names, as a JSON object.

diffusers keeps them in the file's metadata, PEFT itself in a file beside the weights.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from danqing.adapters.keys import TEXT_ENCODER
from danqing.adapters.refusal import Refuse

PEFT_METADATA = "lora_adapter_metadata"
LARGEST = 1e30
MOST_WILD = 32  # patterns that are more than a name; each is tried on every layer
CHANGING_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
FOREIGN = (
    "use_qalora",
    "use_bdlora",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)


def peft_config(metadata: Mapping[str, str], refuse: Refuse) -> dict[str, Any] | None:
    """PEFT's settings, if the metadata has them."""
    text = metadata.get(PEFT_METADATA)
    if text is None:
        return None
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        refuse("has metadata that is not a JSON object", [PEFT_METADATA])
        return None
    foreign = [key for key in config if TEXT_ENCODER.match(key)]
    refuse("has settings for the text encoder, which danqing leaves as it is", foreign)
    plain = {key.removeprefix("transformer."): value for key, value in config.items()}
    if "alpha" in plain:  # as LoHa and LoKr call it
        plain.setdefault("lora_alpha", plain["alpha"])
    refuse(f"has {PEFT_METADATA} that cannot be read", list(config_faults(plain)))
    refuse("needs what danqing does not do", foreign_settings(plain))
    return plain


def config_faults(config: Mapping[str, Any]) -> Iterator[str]:
    for key in ("r", "lora_alpha"):
        if key not in config:
            yield f"{key} is missing"
        elif not is_number(config[key]) or (key == "r" and config[key] <= 0):
            yield f"{key} is {config[key]!r}"[:80]
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict) or not all(is_number(v) for v in patterns.values()):
            yield f"{key} is {patterns!r}"[:80]
            continue
        if key == "rank_pattern" and not all(rank > 0 for rank in patterns.values()):
            yield f"{key} is {patterns!r}"[:80]
        yield from (f"{key} has {text!r}" for text in patterns if not is_pattern(text))
        wild = [text for text in patterns if re.search(r"[|(*+]", text)]
        if len(wild) > MOST_WILD:
            yield f"{key} has {len(wild)} patterns with choices or repeats, at most {MOST_WILD}"


def is_number(value: Any) -> bool:
    """A number that single precision holds."""
    return type(value) in (int, float) and abs(value) < LARGEST  # false for NaN


def is_pattern(text: str) -> bool:
    """A pattern of names as people write them; one from a stranger's file could run for ages."""
    plain = re.fullmatch(r"(?:[\w|()^$-]|\\\.|\.\*?|\\d\+?)+", text)
    branches, repeats = text.count("(") + text.count("|"), text.count("*") + text.count("+")
    if not plain or text.endswith("\n") or len(text) > 200 or branches > 8 or repeats > 3:
        return False
    try:
        re.compile(without_prefix(text))
    except re.error:
        return False
    return True


def without_prefix(pattern: str) -> str:
    """Without the component's name, where that is what it begins with."""
    return re.sub(r"^(\^?)transformer(\.|\\\.)(?![*+])", r"\1", pattern)


def peft_alpha(layer: str, rank: int | None, config: Mapping[str, Any]) -> tuple[float, str]:
    """Alpha in the sense of alpha / rank, and what contradicts the tensors, as PEFT reads it."""
    said = matching(layer, config.get("rank_pattern") or {}, config["r"])
    alpha = float(matching(layer, config.get("alpha_pattern") or {}, config["lora_alpha"]))
    fault = "" if said == rank else f"rank {rank}, in the metadata {said}"
    if config.get("use_rslora") and rank:  # rank-stabilised (arXiv 2312.03732): alpha / sqrt(rank)
        alpha *= math.sqrt(rank)
    return alpha, fault


def matching(layer: str, patterns: Mapping[str, Any], otherwise: Any) -> Any:
    """The value of the first pattern that the layer's name ends with."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({without_prefix(pattern)})$", layer):
            return value
    return otherwise


def foreign_settings(config: Mapping[str, Any]) -> list[str]:
    """Settings under which the tensors mean something else than a plain update."""
    start = str(config.get("init_lora_weights") or "")
    found = [f"{name} is {config[name]!r}" for name in FOREIGN if config.get(name)]
    if start.startswith(CHANGING_STARTS):
        # PEFT took the first update off the base's weights, and the file has no trace of it.
        found.append(f"init_lora_weights is {start!r}: convert it to a plain LoRA with PEFT first")
    return found


def whole_factor(layer: str, config: Mapping[str, Any]) -> float:
    """The scale of a Kronecker product of whole matrices, which only PEFT scales at all."""
    rank = matching(layer, config.get("rank_pattern") or {}, config["r"])
    return float(matching(layer, config.get("alpha_pattern") or {}, config["lora_alpha"]) / rank)
