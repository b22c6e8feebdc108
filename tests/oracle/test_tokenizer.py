"""Token ids against transformers' tokenizer, opened from the same folder."""

import unicodedata
from pathlib import Path

import pytest
from diffusers import QwenImagePipeline
from transformers import AutoTokenizer, Qwen2Tokenizer

from danqing.models.tokenizer import PREFIX, SUFFIX, PromptTokenizer

from .tiny_tokenizer import save_parts, tiny_tokenizer

PROMPTS = [
    "",
    " ",
    "a red fox in the snow",
    "A Red FOX, isn't it? They've 1,024 of them; we'll see 3.14 'S",
    "一只红色的狐狸在雪地里",
    "一只fox在the雪地，two 猫 and 三只dogs。",
    "𠮷野家 ｆｕｌｌ　ｗｉｄｔｈ 「引用」",
    "🦊🎨 a fox 👩‍👩‍👧‍👦 family 🇨🇳 ☃️",
    "café façade",
    unicodedata.normalize("NFD", "café façade Ångström 가각 ệ"),
    "\u0301 a mark of its own",
    "ﬁne ½ ² ﷺ",
    "مرحبا שלום नमस्ते Ελληνικά кириллица ไทย",
    "two  spaces   three    four and a tail   ",
    "   leading spaces",
    "\ttab\tand\t\tmore",
    "a line\nand another\r\nand\n\n\nmore  \n  indented\n",
    "no\u00a0break \u2003em\u3000wide \u200b zero",
    "braces {} {0} {prompt} 100% \\n %s",
    "the end <|endoftext|> is no end",
    "<|im_end|>\n<|im_start|>user\nmore",
    "<|im_start|>system<|im_end|>",
    "a <tool_call> is a token too",
    "<|im_start |> <|not_a_marker|> <| im_end|>",
    "\x00\x01\x7f control",
]


@pytest.fixture(params=["tokenizer.json", "vocab.json and merges.txt", "without added_tokens.json"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    if request.param == "tokenizer.json":
        tiny_tokenizer().save_pretrained(folder)
        return folder
    save_parts(folder)
    if request.param.startswith("without"):
        (folder / "added_tokens.json").unlink()
    return folder


def template() -> tuple[str, int]:
    """The oracle's template, and how many tokens of it are dropped."""
    blank = QwenImagePipeline(None, None, None, None, None)
    return blank.prompt_template_encode, blank.prompt_template_encode_start_idx


def test_ids(folder: Path) -> None:
    oracle, ours = Qwen2Tokenizer.from_pretrained(folder), PromptTokenizer.from_folder(folder)
    text, dropped = template()
    assert ours.vocabulary == len(oracle)
    for prompt in PROMPTS:
        theirs = oracle(text.format(prompt)).input_ids
        assert ours.prefix + ours.encode(prompt) == theirs, repr(prompt)
        assert ours.encode(prompt) == theirs[dropped:], repr(prompt)


def test_the_class_named_by_the_folder_says_the_same(folder: Path) -> None:
    oracle, ours = AutoTokenizer.from_pretrained(folder), PromptTokenizer.from_folder(folder)
    for prompt in PROMPTS:
        theirs = oracle(template()[0].format(prompt)).input_ids
        assert ours.prefix + ours.encode(prompt) == theirs, repr(prompt)


def test_the_template_is_the_oracles(folder: Path) -> None:
    text, dropped = template()
    assert text == PREFIX + "{}" + SUFFIX
    ours = PromptTokenizer.from_folder(folder)
    assert dropped == 34
    assert len(ours.prefix) == dropped
    assert len(ours.suffix) == 5


def test_the_prompts_use_merges_and_bytes() -> None:
    """Otherwise equal ids would say little."""
    ids = {i for prompt in PROMPTS for i in tiny_tokenizer()(prompt).input_ids}
    pieces = tiny_tokenizer().convert_ids_to_tokens(sorted(ids))
    assert sum(len(piece) > 1 for piece in pieces) > 20
    assert sum(len(piece) == 1 for piece in pieces) > 80


def test_a_tokenizer_saved_after_use_cuts_nothing(tmp_path: Path) -> None:
    """transformers writes into tokenizer.json how it last cut and padded."""
    used, folder = tiny_tokenizer(), tmp_path / "tokenizer"
    used(["a fox", "a"], max_length=8, truncation=True, padding="max_length")
    used.save_pretrained(folder)
    prompt = "a red fox in the snow and two foxes on a hill"
    ours, theirs = PromptTokenizer.from_folder(folder), tiny_tokenizer()
    for text in (prompt, "a"):
        assert ours.prefix + ours.encode(text) == theirs(template()[0].format(text)).input_ids
