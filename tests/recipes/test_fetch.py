"""Fetching: what comes is what was pinned, and only data files are taken out of it."""

import base64
import hashlib
import io
import stat
import tarfile
from dataclasses import replace

import pytest

from recipes.mini import fetch as stage
from recipes.mini.config import Package
from recipes.mini.fetch import FetchError, download, fetch, package_folder, unpack, verify


def tarball(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def pin(content: bytes) -> Package:
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    return Package("1.2.3", f"sha512-{digest}")


CONTENT = tarball({"package/icons.json": b"{}", "package/index.js": b"boom()"})


def test_a_good_package_is_unpacked_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(stage, "download", lambda name, version: asked.append(name) or CONTENT)
    assert fetch("@set/art", pin(CONTENT), tmp_path) is True
    assert fetch("@set/art", pin(CONTENT), tmp_path) is False
    folder = package_folder(tmp_path, "@set/art")
    assert asked == ["@set/art"]
    assert sorted(path.name for path in folder.iterdir()) == [stage.MARK, "icons.json"]


def test_another_pin_or_a_half_unpacked_folder_is_fetched_again(tmp_path, monkeypatch):
    other = tarball({"package/icons.json": b"[]"})
    folder = package_folder(tmp_path, "@set/art")
    monkeypatch.setattr(stage, "download", lambda name, version: CONTENT)
    fetch("@set/art", pin(CONTENT), tmp_path)
    monkeypatch.setattr(stage, "download", lambda name, version: other)
    assert fetch("@set/art", pin(other), tmp_path) is True
    assert (folder / "icons.json").read_bytes() == b"[]"
    (folder / stage.MARK).unlink()
    assert fetch("@set/art", pin(other), tmp_path) is True


def test_another_tarball_than_pinned_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "download", lambda name, version: b"something else")
    with pytest.raises(FetchError, match=r"@set/art@1\.2\.3: sha512 is .* pinned is .* not used"):
        fetch("@set/art", pin(CONTENT), tmp_path)
    assert not package_folder(tmp_path, "@set/art").exists()


def test_a_weaker_hash_is_not_accepted():
    with pytest.raises(FetchError, match="is not sha512"):
        verify(b"", "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "a")


def test_links_and_paths_out_of_the_folder_are_left_in_the_tarball(tmp_path):
    content = tarball(
        {
            "package/assets/1f98a.webp": b"fox",
            "package/assets/../../../evil.webp": b"evil",
            "package/assets/deep/../../up.webp": b"evil",
        },
        links={"package/icons.json": "/etc/passwd", "package/assets/link.webp": "/etc/passwd"},
    )
    folder = tmp_path / "inside"
    unpack(content, folder)
    assert [p for p in tmp_path.rglob("*") if not p.is_dir()] == [folder / "assets/1f98a.webp"]
    assert (folder / "assets/1f98a.webp").read_bytes() == b"fox"


def fake_npm(folder, script: str) -> None:
    path = folder / "npm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_npm_is_asked_for_the_exact_version(tmp_path, monkeypatch):
    # $6 is what follows --pack-destination
    fake_npm(tmp_path, 'printf "%s %s" "$1" "$2" > "$6/set-art.tgz"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert download("@set/art", "1.2.3") == b"pack @set/art@1.2.3"


def test_the_reason_of_a_failing_npm_is_told_in_one_line(tmp_path, monkeypatch):
    fake_npm(tmp_path, "echo noise >&2; echo 'npm error 404 no such package' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(FetchError, match=r"^npm pack art@9 failed: npm error 404 no such package$"):
        download("art", "9")


def test_a_missing_npm_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="npm is not on the path; install"):
        download("art", "9")


def test_only_the_packages_of_the_chosen_styles_are_needed(full_config):
    chosen = replace(full_config, data=replace(full_config.data, styles=("blob",)))
    chosen = replace(chosen, vae=replace(chosen.vae, styles=("blob",)))
    assert stage.needed(chosen) == [
        "@iconify-json/noto-v1",
        "@iconify-json/noto",
        full_config.tokenizer.package,
    ]


def test_a_package_without_a_pin_is_named(full_config, tmp_path):
    with pytest.raises(FetchError, match="is needed but not pinned"):
        stage.run(replace(full_config, packages={}), tmp_path, None)
