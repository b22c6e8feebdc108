"""`python -m recipes.adapters STAGE...`: run stages of the recipe, each anew."""

import argparse
import importlib
from pathlib import Path

from recipes.adapters import config

STAGES = ("data", "train", "judges", "score", "sheets", "fast")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.adapters", description=__doc__)
    parser.add_argument(
        "stages",
        nargs="*",
        default=STAGES,
        help=f"of {', '.join(STAGES)}; all",
    )
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("adapters.toml"))
    parser.add_argument("--runs", type=Path, default=Path("runs/adapters"), help="the work's place")
    parser.add_argument("--mini", type=Path, default=Path("runs/mini"), help="mini's work")
    options = parser.parse_args()
    unknown = [s for s in options.stages if s not in STAGES]
    if unknown:
        parser.error(f"unknown stage {unknown[0]!r}; the stages are {', '.join(STAGES)}")
    place = config.Place(config.load(options.config), options.runs, options.mini)
    for stage in options.stages:
        importlib.import_module(f"recipes.adapters.{stage}").run(place)


if __name__ == "__main__":
    main()
