"""Cutting a byte-level BPE: the same pieces for kept text, and any text comes back."""

import json

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from recipes.mini import corpus as corpus_module
from recipes.mini.concepts import read_concepts
from recipes.mini.corpus import PREFIX, SUFFIX, all_names, cases, corpus, drawn
from recipes.mini.tokenizer import (
    OPEN_TEXT,
    SPECIALS,
    broken_share,
    check_open_text,
    check_template,
    closure,
    cut,
    used_tokens,
    write,
)

# As in the published tokenizer.json.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def some_captions(count: int) -> list[str]:
    return [text for concept in read_concepts()[:count] for text in drawn(concept, "test", 4)]


@pytest.fixture(scope="module")
def full_spec() -> dict:
    """A BPE of the published one's make, but learned here: 1,500 tokens, three specials and one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([*some_captions(120), PREFIX, SUFFIX] * 3, trainer)
    tokenizer.add_special_tokens([*SPECIALS, "<|other|>"])
    return json.loads(tokenizer.to_str())


@pytest.fixture(scope="module")
def full(full_spec) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(full_spec))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [*some_captions(20), PREFIX + "一只狐狸" + SUFFIX]


@pytest.fixture(scope="module")
def spec(full_spec, full, texts) -> dict:
    return cut(full_spec, used_tokens(full, texts))


@pytest.fixture(scope="module")
def small(spec) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(spec))


def test_kept_text_is_cut_into_the_same_pieces_with_fewer_tokens(small, full, texts):
    assert small.get_vocab_size() < 0.85 * full.get_vocab_size()
    assert [e.tokens for e in small.encode_batch(texts)] == [
        e.tokens for e in full.encode_batch(texts)
    ]
    assert broken_share(small, full, texts) == 0


def test_any_text_comes_back(small):
    check_open_text(small)
    for text in ("🦊🏳️‍🌈", "\x00\x7f", "القطة", "a" * 50):
        assert small.decode(small.encode(text).ids) == text
    assert len(OPEN_TEXT) == 4


def test_ids_are_dense_in_the_old_order_and_the_specials_are_last(spec, full_spec):
    vocab, old = spec["model"]["vocab"], full_spec["model"]["vocab"]
    assert list(vocab.values()) == list(range(len(vocab)))
    assert [old[token] for token in vocab] == sorted(old[token] for token in vocab)
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= vocab.keys()
    added = [(token["content"], token["id"]) for token in spec["added_tokens"]]
    assert added == [(token, len(vocab) + n) for n, token in enumerate(SPECIALS)]


def test_specials_are_one_token_each_and_not_in_the_vocabulary(small, spec):
    size = len(spec["model"]["vocab"])
    assert small.encode("".join(SPECIALS)).ids == [size, size + 1, size + 2]


def test_each_merge_joins_two_kept_tokens_into_a_third(spec):
    vocab = spec["model"]["vocab"]
    pairs = [merge.split(" ") for merge in spec["model"]["merges"]]
    assert pairs
    assert all({a, b, a + b} <= vocab.keys() for a, b in pairs)
    assert len(vocab) == 256 + len(pairs)


def test_normaliser_and_pre_tokeniser_are_those_of_the_full_one(spec, full_spec):
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        assert spec[part] == full_spec[part]
    assert spec["normalizer"] == {"type": "NFC"}


def test_merges_in_either_writing_give_the_same_cut(full_spec, spec, full, texts):
    pairs = [m if isinstance(m, list) else m.split(" ") for m in full_spec["model"]["merges"]]
    used = used_tokens(full, texts)
    for merges in (pairs, [" ".join(pair) for pair in pairs]):
        assert cut({**full_spec, "model": {**full_spec["model"], "merges": merges}}, used) == spec


def test_closure_keeps_the_way_to_a_token():
    merges = [("a", "b"), ("ab", "c"), ("x", "y")]
    assert closure({"abc"}, merges) == {"abc", "ab", "c", "a", "b"}


def test_a_missing_token_is_found_by_the_check(full_spec, full, texts):
    used = used_tokens(full, texts)
    piece = max(used - set(SPECIALS), key=len)
    without = Tokenizer.from_str(json.dumps(cut(full_spec, used - {piece})))
    assert 0 < broken_share(without, full, texts) < 0.5


def test_a_template_of_another_length_is_refused(full_spec):
    bytes_only = Tokenizer.from_str(json.dumps(cut(full_spec, set())))
    with pytest.raises(ValueError, match="tokens, must be 34"):
        check_template(bytes_only)


def test_the_written_folder_loads_in_both_libraries_with_equal_ids(spec, small, texts, tmp_path):
    write(spec, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "added_tokens.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    ]
    sample = [*texts[::25], texts[-1], *OPEN_TEXT]
    expected = [small.encode(text).ids for text in sample]
    ours = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [ours.encode(text).ids for text in sample] == expected
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(sample)["input_ids"] == expected
    assert (theirs.eos_token, theirs.pad_token) == ("<|im_end|>", "<|endoftext|>")
    # The published folder has no tokenizer.json: the other files must do alone.
    (tmp_path / "tokenizer.json").unlink()
    assert AutoTokenizer.from_pretrained(tmp_path)(sample)["input_ids"] == expected


def test_the_corpus_holds_every_name_as_anybody_writes_it(monkeypatch):
    concepts = read_concepts()[::90]
    monkeypatch.setattr(corpus_module, "read_concepts", lambda: concepts)
    texts = set(corpus(("extra words",)))
    assert PREFIX + SUFFIX in texts
    assert "extra words" in texts
    for c in concepts:
        assert {c.en, f" {c.en}", c.plural, *c.also_en, *c.also_zh} <= texts
        assert {f"一{c.classifier}{c.zh}", f"三{c.classifier}{c.zh}"} <= texts
        assert f"一{c.classifier}蓝色的{c.zh}" in texts
        assert f"一{c.classifier}{c.zh}在左上角" in texts
        assert c.en.upper() in texts or not c.common


def test_words_are_kept_small_capitalised_and_in_capitals():
    assert set(cases("red fox")) == {
        "red fox", " red fox", "Red Fox", " Red Fox", "RED FOX", " RED FOX",
    }  # fmt: skip
    fox = next(c for c in read_concepts() if c.en == "fox")
    assert "Foxes" in set(all_names(fox))
