"""Pictures by `mini` in a process that is warm: one alone, and 32 in one call.

    python benchmarks/painting.py [--repeats 5]

Each way of sampling is run once before it is measured. The last line of the output is a JSON object
of the median seconds for a picture.
"""

import argparse
import json
import statistics
import time

import torch
from cold_start import machine

import danqing

# Steps and guidance; None takes what the model does by itself.
WAYS: dict[str, tuple[int | None, float | None]] = {
    "as it comes": (None, None),
    "30 steps, guidance 4": (30, 4.0),
    "50 steps, guidance 4": (50, 4.0),
}
MANY = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    pipe, found = danqing.load("mini"), {}
    for name, (steps, guidance) in WAYS.items():
        for count in (1, MANY):
            requests = [
                danqing.Request("一只狐狸", seed=seed, steps=steps, guidance=guidance)
                for seed in range(count)
            ]
            found[f"{name}, {count} in a call"] = measure(pipe, requests, repeats)
            print(name, count, found[f"{name}, {count} in a call"], flush=True)
    own = {**machine(), "threads": torch.get_num_threads(), "sizes": list(pipe.defaults.size)}
    print(json.dumps({"machine": own, "seconds": found}, ensure_ascii=False))


def measure(pipe: danqing.Pipeline, requests: list[danqing.Request], repeats: int) -> float:
    """Median seconds for a picture."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        pipe.generate(requests)
        seconds.append(time.perf_counter() - started)
    return round(statistics.median(seconds[1:]) / len(requests), 4)


if __name__ == "__main__":
    main()
