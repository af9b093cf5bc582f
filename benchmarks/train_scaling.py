"""Measures how a step of distillation grows with the passages of a list and with the queries of a batch.

    python examples/reproduce/run.py --data PARENT --output OUT --preset PRESET --corpora DIR --candidates-only
    python benchmarks/train_scaling.py --data PARENT/DIR --candidates OUT/stages/candidates-DIGEST \
        [--model bart-base-shape] [--device cuda --bf16]

Each size runs in a separate process: forward and backward pass, the median over several steps of different queries,
and the peak memory of the process. `time_exponent` is the slope of log(seconds) over log(unique prefixes), fitted over
all sizes: 1 is linear. `seconds_a_thousand` and `bytes_a_prefix` are slopes of straight lines. Costs that do not
depend on prefixes (gradients of all parameters, the encoder) make the exponent smaller than 1, but not these slopes.
The last line is one JSON object.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np
from training_inputs import Inputs, add_options, peak_memory

LISTS = ((6, 1), (12, 1), (25, 1), (50, 1), (100, 1))
BATCHES = ((6, 2), (6, 4), (6, 8))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--steps", type=int, default=3, help="Measured steps, after one for warming up.")
    parser.add_argument("--size", nargs=2, type=int, metavar=("PASSAGES", "QUERIES"), help="Run only this size.")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Measure one size: medians over steps, and the peak memory of the process."""
    passages, queries = options.size
    inputs = Inputs(options, passages, queries)
    inputs.model.train()
    seconds, prefixes, passages_found = [], [], []
    for step in range(options.steps + 1):
        batch = inputs.batch(step)
        inputs.finish()
        began = time.perf_counter()
        inputs.train_on(batch)
        inputs.finish()
        seconds.append(time.perf_counter() - began)
        prefixes.append(batch["scored_prefixes"].unique().numel())
        passages_found.append(int(batch["list_mask"].sum()))
    return {
        "passages": passages,
        "queries": queries,
        "passages_found": statistics.median(passages_found[1:] or passages_found),
        "prefixes": statistics.median(prefixes[1:] or prefixes),
        "seconds": round(statistics.median(seconds[1:] or seconds), 4),
        "peak_bytes": peak_memory(inputs.device),
    }


def main() -> None:
    options = parse()
    if options.size:
        print(json.dumps(measure(options)))
        return
    rows = []
    print(f"{options.model} on {options.device}")
    print(f"{'passages':>9}{'queries':>9}{'prefixes':>10}{'s per step':>11}{'peak MB':>9}")
    for passages, queries in LISTS + BATCHES:
        command = [sys.executable, __file__, *sys.argv[1:], "--size", str(passages), str(queries)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"{passages:9}{queries:9}{row['prefixes']:10.0f}{row['seconds']:11.3f}{row['peak_bytes'] / 2**20:9.0f}",
            flush=True,
        )
    prefixes, seconds, memory = (
        np.array([row[name] for row in rows]) for name in ("prefixes", "seconds", "peak_bytes")
    )
    result = {
        "model": options.model,
        "device": options.device,
        "bf16": options.bf16,
        "time_exponent": round(float(np.polyfit(np.log(prefixes), np.log(seconds), 1)[0]), 3),
        "seconds_a_thousand": round(float(np.polyfit(prefixes / 1000, seconds, 1)[0]), 4),
        "bytes_a_prefix": round(float(np.polyfit(prefixes, memory, 1)[0])),
        "sizes": rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
