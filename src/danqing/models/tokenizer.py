"""Prompts to token ids: the checkpoint's own byte-level BPE, and Qwen-Image's chat template.

A checkpoint brings ``tokenizer.json``, or ``vocab.json`` and ``merges.txt`` (as the published one
does); both give the same ids. The template around the prompt is constant; its first 34 tokens are
not part of the features, its last 5 are.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from danqing.errors import ModelError, RequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SYSTEM = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:"
)
PREFIX = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
MAX_TOKENS = 1024  # the reference's limit for the prompt and the template's end

# How Qwen2 cuts text before the merges; the published tokenizer's own expression.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PromptTokenizer:
    """Token ids of prompts, between a constant prefix and a constant suffix."""

    tokenizer: "Tokenizer"
    prefix: list[int]
    suffix: list[int]
    max_tokens: int = MAX_TOKENS

    @classmethod
    def from_folder(cls, folder: Path) -> "PromptTokenizer":
        """Open a checkpoint's ``tokenizer/``; ModelError where files are missing or broken."""
        tokenizer = open_tokenizer(folder)
        prefix, suffix = (encode(tokenizer, text) for text in (PREFIX, SUFFIX))
        return cls(tokenizer, prefix, suffix)

    @property
    def vocabulary(self) -> int:
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, prompt: str) -> list[int]:
        """Ids of the prompt and the suffix, without the prefix; never cut."""
        # A chat marker inside a prompt is markup here as in the reference: it gets its special id.
        ids = encode(self.tokenizer, prompt) + self.suffix
        if len(ids) > self.max_tokens:
            limit = self.max_tokens - len(self.suffix)
            raise RequestError(
                f"prompt has {len(ids) - len(self.suffix)} tokens, the limit is {limit}; "
                f"shorten it (it begins {prompt[:40]!r})"
            )
        return ids


def encode(tokenizer: "Tokenizer", text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def open_tokenizer(folder: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    whole = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(whole)) if whole.is_file() else build(folder)
    except ModelError:
        raise
    except Exception as error:  # the library raises bare Exception for a broken file
        raise ModelError(f"cannot read the tokenizer in {folder}: {error}") from error
    # A file that was saved after use remembers how it cut and filled the last batch.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def build(folder: Path) -> "Tokenizer":
    """Put the tokenizer together from ``vocab.json``, ``merges.txt`` and the added tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as cut

    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} has neither tokenizer.json nor {name}; fetch the folder again"
            )
    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = cut.Sequence(
        [
            cut.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            cut.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = added_tokens(folder)
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in added]
    )
    wrong = {t: i for t, i in added.items() if tokenizer.token_to_id(t) != i}
    if wrong:
        raise ModelError(f"added tokens of {folder} do not follow its vocabulary: {wrong}")
    return tokenizer


def added_tokens(folder: Path) -> dict[str, int]:
    """Special tokens and ids, in the order of the ids, from either file that lists them."""
    listed = folder / "added_tokens.json"
    if listed.is_file():
        tokens = {str(t): int(i) for t, i in json.loads(listed.read_text("utf-8")).items()}
    else:
        config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        decoder = config.get("added_tokens_decoder", {})
        tokens = {entry["content"]: int(i) for i, entry in decoder.items()}
    return dict(sorted(tokens.items(), key=lambda item: item[1]))
