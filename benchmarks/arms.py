"""The same training with other settings, side by side: several seeds, one split, one table.

    python -m benchmarks.arms SYSTEM --data DIR --out runs/adaptation --seeds 0 1 2 --steps 1200 \\
        --arm fixed --arm adaptive:adaptation.every=50 --metric easy.gain_over_input.psnr --metric hard.model.psnr

An arm is NAME or NAME:key=value;key=value. All arms have the same steps, seeds and batches. A metric is a dotted name
inside the report of `rayface evaluate`; --judged also asks the judges. What is chosen by a comparison is chosen on
--split validation. Arms and seeds can run in processes of their own
(the same --out, other --arm or --seeds); whoever runs last prints all. Stops and goes on where it was.
"""

import argparse
from pathlib import Path

import torch

from rayface.comparison import table, trained_and_judged
from rayface.data.dataset import FaceDataset
from rayface.training.request import TrainRequest


def run_options(description: str | None, steps: int) -> argparse.ArgumentParser:
    """What every comparison of trainings takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    return parser


def begin(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, and what they ask for before the first training."""
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    FaceDataset(arguments.data, "test")  # before hours of training
    return arguments


def main() -> None:
    parser = run_options(__doc__, steps=600)
    parser.add_argument("system")
    parser.add_argument("--arm", action="append", required=True)
    parser.add_argument("--metric", action="append", required=True)
    parser.add_argument("--init", default="")
    parser.add_argument("--preset", default="")
    parser.add_argument("--judged", action="store_true")
    parser.add_argument("--split", default="test", help="validation: to choose a setting by")
    arguments = begin(parser)
    for seed in arguments.seeds:
        for arm in arguments.arm:
            name, _, settings = arm.partition(":")
            overrides = (
                f"steps={arguments.steps}", f"seed={seed}", *arguments.set, *filter(None, settings.split(";")),
            )  # fmt: skip
            request = TrainRequest(
                (arguments.system,), arguments.data, arguments.preset, init=arguments.init, storage=arguments.out,
                store=f"{arguments.out}/{name}-{seed}-store", name=f"{name}-{seed}", overrides=overrides,
            )  # fmt: skip
            trained_and_judged(
                request, name, seed, arguments.metric, arguments.limit, arguments.judged, arguments.split
            )
    print(table(Path(arguments.out), arguments.metric))


if __name__ == "__main__":
    main()
