"""From process start to a PNG on the disk: `danqing generate` with `mini`, cold, several times.

    python benchmarks/cold_start.py [--runs 5]

"Cold" is a new process; the operating system's file cache is warm after the first run, which is
listed apart. The last line of the output is a JSON object.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    paint = ["generate", "一只狐狸", "--seed", "7"]
    commands = {
        "danqing --help": ["--help"],
        "generate": paint,
        "generate, 30 steps": [*paint, "--steps", "30", "--guidance", "4"],
        "generate, 50 steps": [*paint, "--steps", "50", "--guidance", "4"],
    }
    found = {name: measure(command, options.runs) for name, command in commands.items()}
    print(json.dumps({"machine": machine(), "seconds": found}, ensure_ascii=False))


def measure(arguments: list[str], runs: int) -> dict[str, float]:
    """Seconds of the first run and the median of the others."""
    seconds = []
    for _ in range(runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            out = ["--out", f"{folder}/picture.png"] if "generate" in arguments else []
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "danqing", *arguments, *out], check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip
            seconds.append(time.perf_counter() - started)
            assert not out or Path(out[1]).stat().st_size > 0
    return {"first": round(seconds[0], 2), "median": round(statistics.median(seconds[1:]), 2)}


def machine() -> dict[str, str]:
    from danqing.numerics import vendor

    return {
        "processor": f"{vendor()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": version("torch"),
        "danqing": version("danqing"),
    }


if __name__ == "__main__":
    main()
