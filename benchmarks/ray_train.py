"""Images/s of Ray Train over the same loop under torchrun: alternating pairs, two workers of one thread each.

    python benchmarks/ray_train.py --data DIR [--pairs 5] [--preset small] [--steps 30]

The rate is that of the steps after the first third of each run (start-up and warm-up left out), from the run's own
metrics.jsonl. Prints JSON: every pair's rates, their ratios and the median ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def rate(lines: Path, images_per_step: int) -> float:
    """Images/s between the step after the first third and the last."""
    steps = [json.loads(line) for line in lines.read_text().splitlines()]
    first, last = steps[len(steps) // 3], steps[-1]
    return images_per_step * (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    settings = (f"steps={arguments.steps}", f"global_batch={arguments.batch}", "log_every=1", "sample_every=100000")
    overrides = [part for value in (*settings, "checkpoint_every=100000") for part in ("--set", value)]
    common = ["enhancement", "--data", str(Path(arguments.data).resolve()), "--preset", arguments.preset, *overrides]
    pairs = []
    for _ in range(arguments.pairs):
        rates = {}
        for way, command in ways(common):
            with tempfile.TemporaryDirectory() as folder:
                place = ["--out", folder] if way == "torchrun" else ["--storage", folder, "--name", "run"]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(
                    [sys.executable, *command, *place], cwd=ROOT, env=environment, capture_output=True, text=True
                )
                if done.returncode:
                    raise SystemExit(f"{way} failed:\n{done.stderr[-3000:]}")
                log = Path(folder) / ("enhancement" if way == "torchrun" else "run/enhancement") / "metrics.jsonl"
                rates[way] = round(rate(log, arguments.batch), 2)
        pairs.append({**rates, "ratio": round(rates["ray"] / rates["torchrun"], 3)})
        print(json.dumps(pairs[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"pairs": pairs, "median_ratio": statistics.median(pair["ratio"] for pair in pairs)}, indent=1))


def ways(common: list[str]) -> list[tuple[str, list[str]]]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "benchmarks/torchrun_train.py"]
    ray = ["-m", "rayface.cli", "train", *common, "--workers", "2", "--cpus-per-worker", "1"]
    return [("torchrun", [*torchrun, *common]), ("ray", ray)]


if __name__ == "__main__":
    main()
