import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from danqing.errors import ModelError, RequestError
from danqing.models.tokenizer import (
    MAX_TOKENS,
    PREFIX,
    QWEN2_PATTERN,
    SUFFIX,
    PromptTokenizer,
    encode,
    open_tokenizer,
)
from tests import tiny

TEXTS = [
    "a red fox, isn't it?",
    "一只红色的狐狸",
    " two  spaces\n\n and\tlines ",
    "naïve café ☕ 🦊 e\u0301",  # the last letter comes in two code points
    "12345 C3PO",
    "全角，ｆｕｌｌ　ｗｉｄｔｈ ﬁ ①",  # characters that another normalisation would replace
    "",
]
Files = dict[str, str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.write_tokenizer(tmp_path)
    return tmp_path


@pytest.fixture
def tokenizer(folder: Path) -> PromptTokenizer:
    return PromptTokenizer.from_folder(folder)


def whole_spec() -> dict:
    """tokenizer.json as Qwen2's is written."""
    vocab, merges = tiny.bpe()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    split = {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated"}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": len(vocab) + n, "content": token, "special": True, **flags}
            for n, token in enumerate(tiny.SPECIALS)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {**split, "invert": False},
                {**byte_level, "use_regex": False},
            ],
        },
        "post_processor": {**byte_level, "use_regex": False},
        "decoder": {**byte_level, "use_regex": False},
        "model": {"type": "BPE", "vocab": vocab, "merges": [f"{a} {b}" for a, b in merges]},
    }


def test_the_template_has_34_and_5_tokens(tokenizer: PromptTokenizer) -> None:
    assert (len(tokenizer.prefix), len(tokenizer.suffix)) == (34, 5)


def test_a_prompt_stands_between_prefix_and_suffix(folder: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(folder)
    whole = encode(open_tokenizer(folder), f"{PREFIX}a red fox{SUFFIX}")
    assert tokenizer.prefix + tokenizer.encode("a red fox") == whole


def test_an_empty_prompt_is_the_suffix(tokenizer: PromptTokenizer) -> None:
    assert tokenizer.encode("") == tokenizer.suffix


@pytest.mark.parametrize("text", TEXTS)
def test_both_layouts_give_the_same_ids(tmp_path: Path, folder: Path, text: str) -> None:
    other = tmp_path / "whole"
    tiny.write(other / "tokenizer.json", whole_spec())
    parts, whole = (PromptTokenizer.from_folder(place) for place in (folder, other))
    assert parts.encode(text) == whole.encode(text)
    assert parts.vocabulary == whole.vocabulary


def test_any_text_comes_back(tokenizer: PromptTokenizer) -> None:
    text = "一只 fox 🦊 สวัสดี\n"
    assert tokenizer.tokenizer.decode(encode(tokenizer.tokenizer, text)) == text


def test_two_spellings_of_a_letter_are_one(tokenizer: PromptTokenizer) -> None:
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


def test_a_long_prompt_is_an_error_with_count_and_limit(tokenizer: PromptTokenizer) -> None:
    limit = MAX_TOKENS - len(tokenizer.suffix)
    assert len(tokenizer.encode("0" * limit)) == MAX_TOKENS
    message = f"prompt has {limit + 1} tokens, the limit is {limit}; shorten it .*'00000"
    with pytest.raises(RequestError, match=message):
        tokenizer.encode("0" * (limit + 1))


def test_a_file_that_was_saved_after_use_cuts_and_fills_nothing(folder: Path) -> None:
    used = Tokenizer.from_str(json.dumps(whole_spec()))
    used.enable_truncation(max_length=40)
    used.enable_padding(length=80)
    used.save(str(folder / "tokenizer.json"))
    assert len(PromptTokenizer.from_folder(folder).encode("0" * 60)) == 65
    assert len(PromptTokenizer.from_folder(folder).encode("0")) == 6


def test_chat_markers_in_a_prompt_are_markup_as_in_the_reference(
    tokenizer: PromptTokenizer,
) -> None:
    end = tokenizer.tokenizer.token_to_id("<|im_end|>")
    parts = [tokenizer.encode(text)[: -len(tokenizer.suffix)] for text in ("a fox", " x")]
    ids = tokenizer.encode("a fox<|im_end|> x")
    assert ids == [*parts[0], end, *parts[1], *tokenizer.suffix]


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"neither tokenizer.json nor {name}; fetch"):
        open_tokenizer(folder)


BROKEN = {
    "vocab.json": '{"a": ',
    "merges.txt": "#version: 0.2\nq zzzz\n",
    "tokenizer.json": "[]",
    "added_tokens.json": '{"<|im_start|>": "x"}',
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_a_model_error(folder: Path, name: str) -> None:
    (folder / name).write_text(BROKEN[name], "utf-8")
    with pytest.raises(ModelError, match="cannot read the tokenizer"):
        open_tokenizer(folder)


def test_added_tokens_are_listed_in_either_file(folder: Path) -> None:
    listed = PromptTokenizer.from_folder(folder)
    (folder / "added_tokens.json").unlink()
    assert PromptTokenizer.from_folder(folder).suffix == listed.suffix
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
        open_tokenizer(folder)


def test_added_tokens_must_follow_the_vocabulary(folder: Path) -> None:
    added = json.loads((folder / "added_tokens.json").read_text("utf-8"))
    tiny.write(folder / "added_tokens.json", {token: n + 5 for token, n in added.items()})
    with pytest.raises(ModelError, match="do not follow"):
        open_tokenizer(folder)
