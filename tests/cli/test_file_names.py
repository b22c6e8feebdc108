"""File names from prompts."""

import itertools

import pytest

from danqing.cli.names import numbered, slug, stem


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A red fox!", "a-red-fox"),
        ("一只红色的狐狸", "一只红色的狐狸"),
        ("一只狐狸，3D 风格。", "一只狐狸-3d-风格"),
        ("Ｆｏｘ", "fox"),
        ("Füchse & Bären", "füchse-bären"),
        ("fu\u0308chse", "füchse"),
        ("नमस्ते", "नमस्ते"),
        ("../../etc/passwd", "etc-passwd"),
        ("a\0b\nc\\d:e*?", "a-b-c-d-e"),
        ("  --fox--  ", "fox"),
        ("🦊", "picture"),
        ("CON", "con"),
    ],
)
def test_slug(prompt, expected):
    assert slug(prompt) == expected


def test_a_long_prompt_is_cut_at_a_word():
    cut = slug("a very " * 30)
    assert len(cut) <= 60
    assert cut.endswith(("very", "-a"))
    assert slug("x" * 500) == "x" * 60
    assert slug("红" * 500) == "红" * 60


def test_a_name_fits_a_file_system_in_bytes():
    name = f"{stem(chr(0x20000) * 90, 2**63 - 1)}-999.png"
    assert len(name.encode()) <= 255


def test_stem_and_numbers():
    assert stem("A fox", 7) == "a-fox-7"
    assert list(itertools.islice(numbered("x"), 3)) == ["x", "x-2", "x-3"]
