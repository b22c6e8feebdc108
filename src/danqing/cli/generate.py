"""``danqing generate``: from prompts to files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danqing.cli import fields, jobs, names, options, prompts
from danqing.cli.output import Output
from danqing.cli.painting import open_model, paint
from danqing.cli.prompts import Draft
from danqing.cli.terminal import note, say, say_json
from danqing.types import Request, Result

if TYPE_CHECKING:
    from danqing.engine import Pipeline

FILES, PICTURE = "Prompts and files", "Picture"
Prompts = Annotated[
    list[str] | None,
    typer.Argument(metavar="PROMPT", help="What to paint, in English or Chinese."),
]
PromptsFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="More prompts: .txt with one per line, or .jsonl with a JSON object per line.",
        rich_help_panel=FILES,
    ),
]
Out = Annotated[
    str,
    typer.Option(
        metavar="PATH", help="Folder, or a .png name for one picture.", rich_help_panel=FILES
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files of the same name (else they get -2, -3, ...).",
        rich_help_panel=FILES,
    ),
]
Seeds = Annotated[
    list[str] | None,
    typer.Option(
        "--seed",
        metavar="N",
        help="The picture's own noise; may be given again. \\[default: drawn by chance, and shown]",
        show_default=False,
        rich_help_panel=PICTURE,
    ),
]
Count = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="Pictures per prompt, with the seeds N, N+1, ... from --seed.",
        rich_help_panel=PICTURE,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WxH",
        help="Width and height, multiples of 16, or of a larger patch of the model.",
        rich_help_panel=PICTURE,
    ),
]
Steps = Annotated[
    str | None,
    typer.Option(metavar="N", help="Steps from noise to picture.", rich_help_panel=PICTURE),
]
Sigmas = Annotated[
    str | None,
    typer.Option(
        metavar="1,0.9,...", help="Noise levels, in place of --steps.", rich_help_panel=PICTURE
    ),
]
Guidance = Annotated[
    str | None,
    typer.Option(
        metavar="X",
        help="How strongly the prompt pulls; 1 is none and twice as fast.",
        rich_help_panel=PICTURE,
    ),
]
Negative = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="What to steer away from (guidance > 1).", rich_help_panel=PICTURE
    ),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="NAME[:STRENGTH]",
        help="A LoRA: file or name, strength 1 if not given; may be given again.",
        rich_help_panel=PICTURE,
    ),
]
Throughput = Annotated[
    bool,
    typer.Option(
        "--throughput",
        help="Paint more at once where that may change bits of a picture.",
        rich_help_panel=options.MACHINE,
    ),
]
HELP = """Paint pictures from prompts.

Prints the path of each picture as it is finished. Every picture carries its recipe, with which
`danqing reproduce` paints it again.

The options hold for every prompt. A line of a .jsonl file may set any field of its own (prompt,
negative, seed, size, steps, sigmas, guidance, adapters), which then stands above the option.
Picture options that are not given take the model's defaults; steps, sigmas and guidance those that
an adapter was made for, if it was.
"""
EPILOG = (
    'Example: danqing generate "a red fox" "一只红色的狐狸" --seed 7 --count 4 --size 128x128\n\n'
    "Example: danqing generate --prompts prompts.jsonl --out pictures/ --json\n\n"
    "Example: danqing generate fox --adapter style.safetensors:0.8 --adapter lightning-8"
)


def generate(
    prompt: Prompts = None,
    prompts_file: PromptsFile = None,
    out: Out = "outputs",
    overwrite: Overwrite = False,
    as_json: options.Json = False,
    seed: Seeds = None,
    count: Count = "1",
    size: Size = None,
    steps: Steps = None,
    sigmas: Sigmas = None,
    guidance: Guidance = None,
    negative: Negative = None,
    adapter: Adapters = None,
    model: options.Model = "mini",
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    throughput: Throughput = False,
) -> None:
    """Paint pictures from prompts."""
    drafts = prompts.gather(prompt or [], prompts_file)
    picture = {"negative": negative, "size": size, "steps": steps}
    picture |= {"sigmas": sigmas, "guidance": guidance}
    given = jobs.read_options(picture)
    if adapter:
        given["adapters"] = jobs.read_adapters(adapter)
    seeds = jobs.read_seeds(seed or [])
    num = fields.parse(fields.count, fields.number(count), "--count")
    todo = jobs.combine(drafts, given, seeds, num)
    with Output(out, count=len(todo), overwrite=overwrite) as output:
        pipe = open_model(model, device, dtype, threads, throughput=throughput)
        ready = jobs.check(pipe, todo)
        _tell_drawn(seeds, drafts)
        _tell_sampling(pipe, [job.request for job in todo])
        _paint_files(pipe, ready, output, as_json=as_json)


def _paint_files(
    pipe: "Pipeline", requests: Sequence[Request], output: Output, *, as_json: bool
) -> None:
    """Each picture to its file, as soon as it is finished."""
    paths = output.reserve([names.stem(r.prompt, r.seed) for r in requests])
    finished = 0
    try:
        for result in paint(pipe, requests):
            path = output.save(result.image, result.recipe, paths[result.index])
            finished += 1
            _tell(result, path, as_json=as_json)
    except KeyboardInterrupt:
        told = f"{finished} of {len(requests)} pictures are finished and whole"
        raise KeyboardInterrupt(told) from None


def _tell(result: Result, path: Path, *, as_json: bool) -> None:
    if not as_json:
        return say(str(path))
    record = {"path": str(path), "seed": result.request.seed, "recipe": result.recipe}
    say_json({**record, "timings": result.timings})


def _tell_drawn(seeds: jobs.Seeds, drafts: Sequence[Draft]) -> None:
    if seeds.drawn and not all("seed" in draft.fields for draft in drafts):
        seed = seeds.values[0]
        note(f"seed {seed} (drawn by chance; --seed {seed} paints the same again)")


def _tell_sampling(pipe: "Pipeline", requests: Sequence[Request]) -> None:
    """How adapters have it painted, where the requests leave that to them."""
    silent = [r for r in requests if r.steps is None and r.sigmas is None and r.guidance is None]
    for made in dict.fromkeys(pipe.made_for(request) for request in silent):
        if made:
            note(
                f"sampling with {made}, as the adapter was made for "
                "(--steps, --sigmas and --guidance override it)"
            )
