"""``danqing reproduce``: paint pictures again from their recipes, and compare."""

import math
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from danqing import recipe as recipes
from danqing.cli import compare, jobs, options
from danqing.cli.output import Output
from danqing.cli.painting import open_model, paint
from danqing.cli.terminal import say, say_json, warn
from danqing.errors import AdapterError, ModelError, RecipeError

if TYPE_CHECKING:
    from danqing.engine import Pipeline
    from danqing.types import Result

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE", help="Pictures that danqing has painted.")
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Where the model is, if not where the recipe says.",
        rich_help_panel=options.MACHINE,
    ),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="FILE",
        help="An adapter that is not where the recipe says, found by its checksum; may be given "
        "again.",
        rich_help_panel=options.MACHINE,
    ),
]
Out = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="Keep the new pictures there. \\[default: not kept]"),
]
HELP = """Paint pictures again from the recipes that they carry, and compare.

Says `equal` for a picture if all its pixels came out the same, else how far off they are and what
differs between the machine that painted it and this one. Device and precision are the recipe's
own, where this machine has them, unless options say otherwise.

Exit code: 0 if all are equal, 1 if one differs, 2 if one cannot be painted again.
"""
EPILOG = (
    "Example: danqing reproduce outputs/a-red-fox-7.png\n\n"
    "Example: danqing reproduce outputs/*.png --adapter ~/adapters/style.safetensors"
)
Given = Mapping[str, str]  # adapter files, by their SHA-256


@dataclass(frozen=True)
class Original:
    """A picture as it was found."""

    path: Path
    recipe: dict[str, Any]
    pixels_sha256: str  # of the file; a program may have changed it since the recipe was written

    @property
    def setting(self) -> tuple[str, str | None, str | None]:
        """Model, device and dtype that it asks for. A missing GPU falls back to what is here."""
        profile = self.recipe["profile"]
        device = "cpu" if profile.get("device") == "cpu" else None
        return self.recipe["model"]["id"], device, profile.get("dtype")


def reproduce(
    files: Files,
    out: Out = None,
    as_json: options.Json = False,
    model: Model = None,
    adapter: Adapters = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
) -> None:
    """Paint pictures again from the recipes that they carry, and compare."""
    originals = [read(path) for path in files]
    given = by_checksum(adapter or [], originals)
    settings = dict.fromkeys(original.setting for original in originals)
    all_equal = True
    # With its slash it is a folder, whatever its name looks like.
    place = Output(f"{out}/", count=len(files), overwrite=False) if out else nullcontext()
    with place as output:
        for setting in settings:  # one model in memory at a time
            own_model, own_device, own_dtype = setting
            group = [original for original in originals if original.setting == setting]
            with _model_of(group[0]):
                pipe = open_model(
                    model or own_model, device or own_device, dtype or own_dtype, threads
                )
            for original, result in repaint(pipe, group, given):
                report = compared(original, result)
                if output is not None:
                    path = output.reserve([original.path.stem])[0]
                    report["out"] = str(output.save(result.image, result.recipe, path))
                all_equal = all_equal and report["equal"]
                say_json(report) if as_json else say(told(report))
    raise typer.Exit(0 if all_equal else 1)


@contextmanager
def _model_of(original: Original) -> Iterator[None]:
    """An error of opening the model says which picture asked for it, and what helps."""
    try:
        yield
    except ModelError as error:
        name = original.recipe["model"]["id"]
        raise RecipeError(
            f"{original.path} was painted by model {name!r}: {error}; "
            "if it is elsewhere, name its folder with --model"
        ) from error


def read(path: Path) -> Original:
    """A picture, its recipe, and the hash of the pixels that it has now."""
    return Original(path, recipes.read(path), recipes.pixels_sha256(recipes.open_png(path)))


def by_checksum(files: Sequence[str], originals: Sequence[Original]) -> Given:
    """The files of ``--adapter``; a warning for one that is in no recipe."""
    if not files:
        return {}
    from danqing.adapters import published
    from danqing.adapters.safe import locate
    from danqing.adapters.store import digest

    wanted = {own["sha256"] for o in originals for own in o.recipe["adapters"].values()}
    found = {}
    for file in files:
        path = published.find(file)
        try:
            checksum = digest(locate(path))
        except OSError as error:
            raise AdapterError(
                f"cannot read adapter {file}: {error.strerror}; check the name"
            ) from error
        if checksum not in wanted:
            warn(f"--adapter {file} has no effect: no picture was painted with this file")
        # With a folder before it, it is a path, whatever adapters the model may have of its own.
        found[checksum] = os.path.join(path.parent, path.name)
    return found


def repaint(
    pipe: "Pipeline", originals: Sequence[Original], given: Given
) -> Iterator[tuple[Original, "Result"]]:
    """Each original with its new picture, once model and adapters are known to be theirs."""
    for original in originals:
        recorded = original.recipe["model"]
        if recorded["fingerprint"] != pipe.model.fingerprint:
            raise RecipeError(
                f"{original.path} was painted by model {recorded['id']} with fingerprint "
                f"{recorded['fingerprint']}, but {pipe.model.id} here has "
                f"{pipe.model.fingerprint}; name the right one with --model"
            )
    todo = []
    for original in originals:
        request = recipes.to_request(original.recipe)
        request = replace(request, adapters=adapters_here(pipe, original, given))
        todo.append(jobs.Job(request, str(original.path)))
    for result in paint(pipe, jobs.check(pipe, todo)):
        yield originals[result.index], result


def adapters_here(pipe: "Pipeline", original: Original, given: Given) -> dict[str, float]:
    """The recipe's adapters, under names that give the same files here."""
    found: dict[str, float] = {}
    for name, own in original.recipe["adapters"].items():
        here = name
        if own["sha256"] in given:
            here = _unlike(given[own["sha256"]], found)
        else:
            _check_adapter(pipe, original.path, name, own["sha256"])
        found[here] = own["strength"]
    return found


def _unlike(file: str, names: Container[str]) -> str:
    """The file, spelled as none of these: a recipe may hold one adapter under two names."""
    while file in names:
        file = os.path.join(os.path.dirname(file), ".", os.path.basename(file))
    return file


def _check_adapter(pipe: "Pipeline", path: Path, name: str, sha256: str) -> None:
    try:
        here = pipe.adapters.facts(name).digest
    except AdapterError as error:
        raise RecipeError(
            f"{path} was painted with adapter {name!r}: {error}; "
            "if its file is elsewhere, name it with --adapter"
        ) from error
    if here != sha256:
        raise RecipeError(
            f"{path} was painted with adapter {name!r} of SHA-256 {sha256[:16]}, but "
            f"{pipe.adapters.find(name)} here has {here[:16]}; name the right one with --adapter"
        )


def compared(original: Original, result: "Result") -> dict[str, Any]:
    """The findings for one picture, as ``--json`` prints them."""
    recorded, here = original.recipe, result.recipe
    equal = original.pixels_sha256 == here["pixels_sha256"]
    found = recipes.open_png(original.path)
    same_size = found.size == result.image.size
    apart = compare.distance(found, result.image) if same_size else None
    return {
        "path": str(original.path),
        "equal": equal,
        "max_difference": apart.max_difference if apart else None,
        "psnr_db": apart.psnr if apart and math.isfinite(apart.psnr) else None,
        "size": {"file": list(found.size), "here": list(result.image.size)},
        "pixels_sha256": {"recipe": recorded["pixels_sha256"], "here": here["pixels_sha256"]},
        "changed_since": original.pixels_sha256 != recorded["pixels_sha256"],
        "profile": compare.profile_differences(recorded["profile"], here["profile"]),
    }


def told(report: dict[str, Any]) -> str:
    """The findings for one picture, as a person reads them."""
    lines = [f"{report['path']}: {_verdict(report)}"]
    if report["changed_since"]:
        as_recorded = report["pixels_sha256"]["recipe"] == report["pixels_sha256"]["here"]
        then = "; the new picture is as the recipe says" if as_recorded else ""
        lines.append(f"  the file was changed after danqing wrote it{then}")
    for key, (before, here) in report["profile"].items():
        lines.append(f"  {key}: {before or 'not recorded'} -> {here or 'not recorded'}")
    if not report["equal"] and not report["profile"] and not report["changed_since"]:
        lines.append("  the numerics profile is the same")
    if "out" in report:
        lines.append(f"  new picture: {report['out']}")
    return "\n".join(lines)


def _verdict(report: dict[str, Any]) -> str:
    if report["equal"]:
        return "equal"
    if report["max_difference"] is None:
        size = {where: "x".join(map(str, pixels)) for where, pixels in report["size"].items()}
        return f"differs (the file is {size['file']}, its recipe gives {size['here']})"
    return (
        f"differs (max difference {report['max_difference']} of 255, "
        f"PSNR {report['psnr_db']:.1f} dB)"
    )
