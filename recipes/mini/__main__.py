"""`python -m recipes.mini STAGE...`: run stages of the recipe, each resumable after a kill."""

import argparse
import importlib
from pathlib import Path

from recipes.mini import config

STAGES = (
    *("fetch", "data", "tokenizer", "vae", "text", "base", "export"),
    *("judge", "reader", "score", "distil", "score_distill"),
)
OTHERS = ("start",)  # not among all


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.mini", description=__doc__)
    parser.add_argument(
        "stages",
        nargs="*",
        default=STAGES,
        help=f"of {', '.join(STAGES)}; all. Else: {', '.join(OTHERS)}",
    )
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("mini.toml"))
    parser.add_argument("--runs", type=Path, default=Path("runs/mini"), help="where the work lies")
    parser.add_argument("--set", action="append", default=[], help="SECTION.KEY=VALUE, for a study")
    parser.add_argument("--minutes", type=float, help="stop each training stage after so long")
    options = parser.parse_args()
    unknown = [s for s in options.stages if s not in (*STAGES, *OTHERS)]
    if unknown:
        parser.error(f"unknown stage {unknown[0]!r}; the stages are {', '.join(STAGES + OTHERS)}")
    settings = config.load(options.config, options.set)
    for stage in options.stages:
        module = importlib.import_module(f"recipes.mini.{stage}")
        module.run(settings, options.runs, options.minutes)


if __name__ == "__main__":
    main()
