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
    faults = list(config_faults(plain))
    refuse(f"has {PEFT_METADATA} that cannot be read", faults)
    return plain


def config_faults(config: Mapping[str, Any]) -> Iterator[str]:
    def wrong(value: Any) -> bool:
        return type(value) not in (int, float) or not math.isfinite(value)

    for key in ("r", "lora_alpha"):
        if key not in config:
            yield f"{key} is missing"
        elif wrong(config[key]):
            yield f"{key} is {config[key]!r}"
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict) or any(wrong(v) for v in patterns.values()):
            yield f"{key} is {patterns!r}"
            continue
        yield from (f"{key} has {text!r}" for text in patterns if not is_pattern(text))


def is_pattern(text: str) -> bool:
    """A pattern of names as people write them; one from a stranger's file could run for ages."""
    plain = re.fullmatch(r"(?:[\w|()^$-]|\\\.|\.\*?|\\d\+?)+", text)
    if not plain or len(text) > 200 or text.count("*") + text.count("+") > 3:
        return False
    try:
        re.compile(text)
    except re.error:
        return False
    return True


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
        if re.match(rf"(.*\.)?({pattern.removeprefix('transformer.')})$", layer):
            return value
    return otherwise


def unread_settings(config: Mapping[str, Any]) -> list[str]:
    """Settings that change what an adapter does and that danqing does not know."""
    known = ("use_qalora", "layer_replication", "trainable_token_indices")
    return [name for name in (*known, "alora_invocation_tokens") if config.get(name)]
