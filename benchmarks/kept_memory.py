"""What a CPU training step gains when the process keeps the memory that a step has freed (`training/memory.py`).

    python benchmarks/kept_memory.py SYSTEM --data DIR --pairs 2

A process of one thread for each run, with and without in turn; the first three steps are not counted.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time

import torch

import rayface.training.loop as loop
from rayface.training.local import train_here
from rayface.training.request import TrainRequest

WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system")
    parser.add_argument("--data", required=True)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--arm", choices=("freed", "kept"), help=argparse.SUPPRESS)  # the run of one process
    arguments = parser.parse_args()
    if arguments.arm:
        measure(arguments.system, arguments.data, arguments.steps, arguments.arm)
        return
    for _ in range(arguments.pairs):
        for arm in ("freed", "kept"):
            subprocess.run([sys.executable, *sys.argv, "--arm", arm], check=True)


def measure(system: str, data: str, steps: int, arm: str) -> None:
    torch.set_num_threads(1)
    if arm == "freed":
        loop.keep_freed_memory = lambda: False
    marks: list[tuple[float, resource.struct_rusage]] = []
    run_step = loop.Training.run_step

    def marked(training: loop.Training, batch: loop.Batch) -> dict[str, torch.Tensor]:
        metrics = run_step(training, batch)
        marks.append((time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)))
        return metrics

    loop.Training.run_step = marked  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        asked = (f"steps={steps}", f"checkpoint_every={steps}", f"sample_every={steps}")
        train_here(
            TrainRequest((system,), data, "small", storage=folder, store=f"{folder}/store", name="x", overrides=asked)
        )
    (begun, before), (ended, after) = marks[WARM_UP - 1], marks[-1]
    counted = steps - WARM_UP
    print(
        f"{system}, {arm}: {(ended - begun) / counted:.3f} s a step, of it kernel "
        f"{(after.ru_stime - before.ru_stime) / counted:.3f} s, page faults "
        f"{(after.ru_minflt - before.ru_minflt) // counted}, peak {after.ru_maxrss // 1024} MB"
    )


if __name__ == "__main__":
    main()
