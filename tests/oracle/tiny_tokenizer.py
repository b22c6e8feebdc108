"""A byte-level BPE small enough for a test, with Qwen2's rules.

It holds all 256 bytes, and every word of Qwen-Image's template as one token, as the published one
does; so its template, too, has 34 tokens before the prompt.
"""

import json
from functools import cache
from pathlib import Path

from diffusers import QwenImagePipeline
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

MARKERS = ["<|im_start|>", "<|im_end|>"]
PLAIN = "<tool_call>"  # the published tokenizer has added tokens that are not special
SAMPLES = [
    "a red fox in the snow, two foxes on a hill\n\nand a cat by the sea   with stars",
    "一只红色的狐狸在雪地里，两只猫在海边。蓝色的星空",
    "I'm sure it's 2024; they'll paint café façades \t\t 🦊🎨",
]


def template() -> str:
    """diffusers' own, which is set when a pipeline is made."""
    blank = QwenImagePipeline(None, None, None, None, None)
    return blank.prompt_template_encode


def words_of_template() -> str:
    text = template()
    for marker in MARKERS:
        text = text.replace(marker, "")
    return text


@cache
def pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges, learnt from the template and a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([words_of_template()] * 100 + SAMPLES * 2, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def tiny_tokenizer() -> Qwen2Tokenizer:
    """A new one each time: it remembers how it was last called."""
    vocabulary, merges = pieces()
    tokenizer = Qwen2Tokenizer(
        vocab=dict(vocabulary), merges=list(merges), extra_special_tokens=MARKERS
    )
    tokenizer.add_tokens([AddedToken(PLAIN, normalized=False, special=False)])
    return tokenizer


def save_parts(folder: Path) -> None:
    """The tokenizer as the published checkpoint has it: no tokenizer.json."""
    vocabulary, merges = pieces()
    folder.mkdir(parents=True)
    added = {
        token: len(vocabulary) + i for i, token in enumerate(["<|endoftext|>", *MARKERS, PLAIN])
    }
    entry = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "additional_special_tokens": MARKERS,
        "added_tokens_decoder": {
            str(i): {"content": token, "special": token != PLAIN, **entry}
            for token, i in added.items()
        },
    }
    lines = "".join(f"{a} {b}\n" for a, b in merges)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}", "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (folder / "added_tokens.json").write_text(json.dumps(added), "utf-8")
