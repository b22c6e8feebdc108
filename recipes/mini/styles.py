"""The styles of drawing: whose art it is, under which licence, and what captions call it.

``en[i]`` and ``zh[i]`` are translations of each other. Styles of share-alike art are left out on
purpose: the model and its pictures are not share-alike. Left out, too, are the styles that adapters
teach (pixel art, pencil, porcelain, fxemoji, streamline): `mini` must not have seen them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """``slugs``: the package whose chars.json maps code points to this one's slugs, if another.

    ``mono``: drawn in one colour, which is black where captions name none.
    """

    package: str
    licence: str
    artist: str
    en: tuple[str, ...]
    zh: tuple[str, ...]
    slugs: str | None = None
    mono: bool = False


FLUENT_FLAT = "@iconify-json/fluent-emoji-flat"
NOTO = "@iconify-json/noto"

STYLES = {
    "flat": Style(
        FLUENT_FLAT,
        "MIT",
        "Microsoft Fluent Emoji",
        ("flat design", "flat vector style", "flat style"),
        ("扁平设计", "扁平矢量风格", "扁平风格"),
    ),
    "3d": Style(
        "@lobehub/fluent-emoji-3d",
        "MIT",
        "Microsoft Fluent Emoji",
        ("3D render", "3D style", "glossy 3D style"),
        ("3D渲染", "3D风格", "光泽立体风格"),
    ),
    "cartoon": Style(
        NOTO,
        "Apache-2.0",
        "Google Noto Emoji",
        ("cartoon", "cartoon style", "soft shaded cartoon style"),
        ("卡通", "卡通风格", "柔和阴影的卡通风格"),
    ),
    "blob": Style(
        "@iconify-json/noto-v1",
        "Apache-2.0",
        "Google Noto Emoji v1",
        ("retro cartoon", "retro cartoon style", "retro style"),
        ("复古卡通", "复古卡通风格", "复古风格"),
        slugs=NOTO,
    ),
    "sticker": Style(
        "@iconify-json/twemoji",
        "CC-BY-4.0",
        "Twemoji",
        ("sticker", "simple sticker style", "minimal sticker"),
        ("贴纸", "简约贴纸风格", "极简贴纸"),
    ),
    "lineicon": Style(
        "@iconify-json/fluent-emoji-high-contrast",
        "MIT",
        "Microsoft Fluent Emoji",
        ("line icon", "line icon style", "monochrome line icon"),
        ("线条图标", "线条图标风格", "单色线条图标"),
        mono=True,
    ),
}


def find_style(name: str) -> Style:
    if name not in STYLES:
        raise ValueError(f"style {name!r} is unknown; known: {', '.join(STYLES)}")
    return STYLES[name]
