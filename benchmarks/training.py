"""What training takes: an adapter against all weights, with and without checkpointing and int8.

    python -m benchmarks.training [--only 0.3B] [--steps 3]

Random transformers of the published architecture, and ``mini`` as it is, each case in a process of
its own through the training's own ``train``. The memory plan is compared with the measured peak. A
case that the plan finds too large is not run, and a case that was measured is not run again: its
record lies in ``--keep``. The published network is planned only. Prints a table, and one JSON
object as the last line.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from danqing.errors import TrainingError
from danqing.models.text_encoder import TextEncoderConfig
from danqing.models.transformer import Transformer, TransformerConfig
from danqing.models.vae import VAEConfig
from danqing.training.loop import Stepped, Training
from danqing.training.plan import Around, Plan, plan
from danqing.training.settings import Settings, make
from danqing.weights import configs, loader
from danqing.weights.export import save_component
from danqing.weights.hub import find

GIB = 1024**3
MOST = 14 * GIB  # a case that takes more is planned and not run
PICTURES = 6  # fewer than are needed to keep any apart
CAPTION = "a small red house by the sea, painted with a broad brush, seen from above, number"
SIDES = {"mini": 128, "0.3B": 256, "1.3B": 256}  # pixels
# Blocks and heads of 128, as the published network has 60 and 24.
SHAPES = {"0.3B": (14, 6), "1.3B": (15, 12)}
COLUMNS = ("model", "trained", "checkpointing", "int8", "parameters", "gradients", "optimiser",
           "peak, planned", "peak, measured", "planned / measured", "s a step")  # fmt: skip


@dataclass(frozen=True)
class Case:
    model: str
    kind: str
    checkpointing: bool
    int8: bool

    @property
    def name(self) -> str:
        parts = (self.model, self.kind, "checkpointing" * self.checkpointing, "int8" * self.int8)
        return "-".join(part for part in parts if part)

    def settings(self, **more: Any) -> Settings:
        own: dict[str, Any] = {
            "kind": self.kind,
            "checkpointing": self.checkpointing,
            "quantise": "int8" if self.int8 else "none",
            "holdout": 0.0,
            "ema": 0.0,
            "caption_dropout": 0.0,
            "upscale": True,
            "warm_up": 0,
            "save_every": 0,
            "sample_every": 0,
        }
        return make({**own, **more})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=tuple(SIDES), action="append", help="models")
    parser.add_argument("--steps", type=int, default=3, help="that are timed, after a first one")
    parser.add_argument("--keep", type=Path, default=Path("build/benchmarks/training"))
    parser.add_argument("--case", help="run this one here; what the others are started with")
    options = parser.parse_args()
    if options.case:
        measure(Case(**json.loads(options.case)), options.steps, options.keep)
        return
    found = []
    for case in cases(options.only or list(SIDES)):
        record = options.keep / f"{case.name}.json"
        if not record.exists():
            run(case, options.steps, options.keep, record)
        found.append(json.loads(record.read_text()))
        print(line(cells(found[-1])), file=sys.stderr, flush=True)
    computed = list(published())
    show(found)
    show(computed)
    print(json.dumps({"machine": machine(), "measured": found, "computed": computed}))


def cases(models: list[str]) -> Iterator[Case]:
    for model in models:
        for int8 in (False, True):
            for checkpointing in (False, True):
                yield Case(model, "lora", checkpointing, int8)
        for checkpointing in (False, True):
            yield Case(model, "full", checkpointing, int8=False)


def run(case: Case, steps: int, keep: Path, record: Path) -> None:
    """In a process of its own, since a process's peak never goes down."""
    folder(case.model, keep)
    command = [sys.executable, "-m", "benchmarks.training", "--case", json.dumps(asdict(case))]
    command += ["--steps", str(steps), "--keep", str(keep)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    record.write_text(done.stdout.splitlines()[-1])


# ---- one case ---------------------------------------------------------------------------------


def measure(case: Case, steps: int, keep: Path) -> None:
    """Prints the record of the case; its peak is the process's."""
    from danqing.training import loop, run

    work = keep / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    settings = case.settings(
        model=str(folder(case.model, keep)),
        data=(str(pictures(SIDES[case.model], keep)),),
        out=str(work / ("mine.safetensors" if case.kind == "lora" else "mine")),
        size=(SIDES[case.model],) * 2,
        steps=steps + 1,
    )
    state: dict[str, int] = {}
    watch_state(loop, state)
    planned, peak, seconds = None, None, []
    try:
        for event in run.train(settings, torch.device("cpu")):
            if isinstance(event, run.Planned):
                planned = event.plan
                if planned.peak > MOST:
                    break
            elif isinstance(event, Stepped):
                seconds.append(event.seconds)
            elif isinstance(event, run.Finished):
                peak = event.peak
    except TrainingError as error:
        print(error, file=sys.stderr)
        planned = run.outlook(settings, torch.device("cpu")).plan
    assert planned is not None
    shutil.rmtree(work)
    timed = {"peak": peak, "seconds": seconds[1:]}
    print(json.dumps({**asdict(case), **state, **facts(planned), **timed}))


def watch_state(module: Any, state: dict[str, int]) -> None:
    """Count the bytes of the tensors that are there: gradients when they are clipped, the
    optimiser's when a state is saved."""
    clip, save = module.clip, module.Training.save

    def clipping(parameters: Iterable[Tensor], most: float) -> float:
        own = list(parameters)
        state["gradients"] = sum(p.grad.nbytes for p in own if p.grad is not None)
        return clip(own, most)

    def saving(self: Training) -> int:
        values = [value for own in self.optimiser.state.values() for value in own.values()]
        state["optimiser"] = sum(v.nbytes for v in values if isinstance(v, Tensor))
        return save(self)

    module.clip, module.Training.save = clipping, saving


def facts(planned: Plan) -> dict[str, Any]:
    own = {"trained": planned.trained, "planned": planned.peak, "fullest": planned.fullest}
    computed = {"gradients": planned.gradients, "optimiser": planned.optimiser}
    return {**own, **{f"planned_{name}": size for name, size in computed.items()}}


def pictures(side: int, keep: Path) -> Path:
    """Noise: what a picture shows costs nothing."""
    where = keep / f"pictures-{side}"
    where.mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(where / f"{number}.png")
        (where / f"{number}.txt").write_text(f"{CAPTION} {number}\n", "utf-8")
    return where


def folder(model: str, keep: Path) -> Path:
    """``mini``, or a copy of it with a larger transformer, bfloat16 as models are published."""
    if model not in SHAPES:
        return find(model)
    where = keep / f"model-{model}"
    if (where / "whole").exists():
        return where
    shutil.copytree(find("mini"), where, dirs_exist_ok=True)
    config = larger(model)
    save_component("transformer", random_transformer(config), where)
    path = where / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **asdict(config)}))
    (where / "whole").touch()
    return where


def larger(model: str) -> TransformerConfig:
    blocks, heads = SHAPES[model]
    published = TransformerConfig()
    return replace(
        configs.read_transformer(find("mini")),
        num_layers=blocks,
        num_attention_heads=heads,
        attention_head_dim=published.attention_head_dim,
        axes_dims_rope=published.axes_dims_rope,
    )


def random_transformer(config: TransformerConfig) -> torch.nn.Module:
    network = loader.build(lambda: Transformer(config))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in list(network.named_parameters()):
        drawn = torch.empty(parameter.shape, dtype=torch.bfloat16)
        if "norm" in name and parameter.ndim == 1 and not name.startswith("norm_out"):
            drawn.fill_(1)
        else:
            drawn.normal_(0, 0.02, generator=generator)
        loader.assign(network, name, drawn)
    return network


# ---- the published network --------------------------------------------------------------------


def published() -> Iterator[dict[str, Any]]:
    """On a GPU, in bfloat16, one picture of 1024x1024: the memory of the device, by the plan."""
    side, tokens = 1024, 100
    parts = TextEncoderConfig(), VAEConfig()
    around = Around(*parts, (side, side), (side, side), sample_steps=50, tokens=tokens, cpu=False)
    pack = [(side // 16, side // 16, tokens)]
    for case in cases(["20B"]):
        settings = case.settings(dtype="float32" if case.kind == "full" else "bfloat16")
        found = plan(TransformerConfig(), settings, pack, around=around)
        yield {**asdict(case), **facts(found), "peak": None, "seconds": []}


# ---- telling ----------------------------------------------------------------------------------


def show(found: list[dict[str, Any]]) -> None:
    print(line(COLUMNS))
    print(line(["---"] * len(COLUMNS)))
    for record in found:
        print(line(cells(record)))
    print()


def line(texts: Any) -> str:
    return f"| {' | '.join(texts)} |"


def cells(record: Mapping[str, Any]) -> list[str]:
    measured, seconds = record["peak"], record["seconds"]
    gradients = record.get("gradients", record["planned_gradients"])
    optimiser = record.get("optimiser", record["planned_optimiser"])
    return [
        record["model"],
        "all weights" if record["kind"] == "full" else "LoRA",
        "yes" if record["checkpointing"] else "",
        "yes" if record["int8"] else "",
        f"{record['trained'] / 1e6:,.1f} M",
        size(gradients),
        size(optimiser),
        f"{size(record['planned'])} ({record['fullest']})",
        size(measured) if measured else "",
        f"{record['planned'] / measured:.2f}" if measured else "",
        f"{statistics.median(seconds):.2f}" if seconds else "",
    ]


def size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 1024**2:.0f} MiB"


def machine() -> dict[str, str]:
    from danqing.numerics import vendor

    return {
        "processor": f"{vendor()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "torch": version("torch"),
        "danqing": version("danqing"),
    }


if __name__ == "__main__":
    main()
