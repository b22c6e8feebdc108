"""Stage `tokenizer`: the Qwen2 byte-level BPE, cut down to the tokens that `mini` can meet.

A small model cannot afford 151,665 rows of embeddings. Kept are the 256 bytes, so any text still
goes in and comes back; every token of the corpus; and all the merges on the way to those. Text of
the corpus is cut into the same pieces as by the full tokenizer: each merge that fires there ends
in a kept token, so none is missing, and those left keep their order. Only ids differ.
"""

import io
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from recipes.mini.concepts import read_concepts
from recipes.mini.config import Config
from recipes.mini.corpus import PREFIX, SUFFIX, corpus, drawn
from recipes.mini.fetch import package_folder
from recipes.mini.files import read_json, write_atomic, write_json

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = (PAD, START, END)
PREFIX_TOKENS, SUFFIX_TOKENS = 34, 5  # as the pipeline that drops the prefix counts them
MOST_BROKEN = 0.01
OPEN_TEXT = ("naïve café ☕ 🦊", "สวัสดีชาวโลก", "def f(x):\n\treturn x**2\n", "Ελληνικά ñ 한국어")
Spec = dict[str, Any]


def run(config: Config, runs: Path, minutes: float | None) -> None:
    folder = package_folder(runs, config.tokenizer.package)
    full_spec = read_json(folder / "models" / "tokenizer.json")
    full = Tokenizer.from_str(json.dumps(full_spec))
    spec = cut(full_spec, used_tokens(full, corpus(config.tokenizer.words)))
    small = Tokenizer.from_str(json.dumps(spec))
    check_template(small)
    other = broken_share(small, full, sample_captions())
    if other > MOST_BROKEN:
        raise ValueError(f"{other:.3%} of new captions are cut otherwise than in full")
    check_open_text(small)
    write(spec, runs / "tokenizer")
    size = len(spec["model"]["vocab"]) + len(SPECIALS)
    told = f"{size} of {full.get_vocab_size()} tokens kept"
    print(f"tokenizer: {told}, {other:.3%} of new captions cut otherwise", flush=True)


def used_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> set[str]:
    used: set[str] = set()
    for batch in batches(dict.fromkeys(texts)):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            used.update(encoding.tokens)
    return used


def batches(texts: Iterable[str], size: int = 4096) -> Iterator[list[str]]:
    """Encodings take a kilobyte each: never all at once."""
    stream = iter(texts)
    while batch := list(itertools.islice(stream, size)):
        yield batch


def cut(full: Spec, used: set[str]) -> Spec:
    """The same tokenizer with fewer tokens: dense ids in the old order, the specials last."""
    vocab, merges = full["model"]["vocab"], [as_pair(merge) for merge in full["model"]["merges"]]
    keep = closure((used & vocab.keys()) | set(ByteLevel.alphabet()), merges)
    kept = sorted(keep, key=vocab.__getitem__)
    model = {
        **full["model"],
        "vocab": {token: id for id, token in enumerate(kept)},
        "merges": [f"{a} {b}" for a, b in merges if a + b in keep],
    }
    added = {token["content"]: token for token in full["added_tokens"]}
    specials = [{**added[token], "id": len(kept) + n} for n, token in enumerate(SPECIALS)]
    return {**full, "added_tokens": specials, "model": model}


def as_pair(merge: str | list[str]) -> tuple[str, str]:
    """Merges are written "a b" or ["a", "b"], by the age of the file."""
    a, b = merge.split(" ") if isinstance(merge, str) else merge
    return a, b


def closure(tokens: set[str], merges: list[tuple[str, str]]) -> set[str]:
    """With every token also the two that it is merged from, down to the bytes."""
    parents: dict[str, list[str]] = {}
    for a, b in merges:
        parents.setdefault(a + b, []).extend((a, b))
    keep: set[str] = set()
    waiting = list(tokens)
    while waiting:
        token = waiting.pop()
        if token not in keep:
            keep.add(token)
            waiting += parents.get(token, [])
    return keep


def check_template(small: Tokenizer) -> None:
    for text, length in ((PREFIX, PREFIX_TOKENS), (SUFFIX, SUFFIX_TOKENS)):
        found = len(small.encode(text).ids)
        if found != length:
            raise ValueError(f"template {text[:20]!r} is {found} tokens, must be {length}")


def broken_share(small: Tokenizer, full: Tokenizer, texts: Iterable[str]) -> float:
    """Of captions drawn apart from the corpus: what the corpus forgot shows here.

    Such a caption is read all the same, in smaller pieces.
    """
    broken = total = 0
    for batch in batches(texts):
        both = (tokenizer.encode_batch(batch) for tokenizer in (small, full))
        broken += sum(a.tokens != b.tokens for a, b in zip(*both, strict=True))
        total += len(batch)
    return broken / total


def check_open_text(small: Tokenizer) -> None:
    for text in OPEN_TEXT:
        back = small.decode(small.encode(text).ids)
        if back != text:
            raise ValueError(f"{text!r} comes back from the small tokenizer as {back!r}")


def sample_captions() -> Iterator[str]:
    for concept in read_concepts():
        yield from drawn(concept, "check", 10)


def write(spec: Spec, folder: Path) -> None:
    """Both layouts: of the published checkpoint's folder, and the one file of `tokenizers`."""
    model, added = spec["model"], spec["added_tokens"]
    write_json(folder / "tokenizer.json", spec)
    write_json(folder / "vocab.json", model["vocab"])
    merges = io.StringIO()
    print("#version: 0.2", *model["merges"], sep="\n", file=merges)
    write_atomic(folder / "merges.txt", merges.getvalue().encode())
    write_json(folder / "added_tokens.json", {token["content"]: token["id"] for token in added})
    without_id = {t["content"]: {k: v for k, v in t.items() if k != "id"} for t in added}
    names = {name: without_id[token] for name, token in (("eos_token", END), ("pad_token", PAD))}
    special = {"additional_special_tokens": [START, END]}
    write_json(folder / "special_tokens_map.json", {**special, **plain(names)})
    decoder = {str(token["id"]): without_id[token["content"]] for token in added}
    write_json(folder / "tokenizer_config.json", settings(decoder) | special)


def plain(names: dict[str, Spec]) -> dict[str, Spec]:
    """As the published map has them: without the mark that says special, which all of them are."""
    return {
        name: {k: v for k, v in token.items() if k != "special"} for name, token in names.items()
    }


def settings(decoder: dict[str, Spec]) -> Spec:
    """tokenizer_config.json as the published checkpoint has it."""
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": PAD,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
