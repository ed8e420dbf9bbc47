"""The training loop under torchrun, without Ray: the yardstick of `ray_train.py`, and of the equality tests.

    python -m torch.distributed.run --standalone --nproc-per-node 2 benchmarks/torchrun_train.py \
        enhancement --data DIR --out DIR --preset tiny --set precision=fp32
"""

import argparse
import warnings
from pathlib import Path

import torch

from rayface.data.dataset import FaceDataset
from rayface.systems.base import get_system, resolve_config
from rayface.training.loop import Training, run
from rayface.training.progress import Progress
from rayface.training.workers import from_torchrun, solo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--solo", action="store_true", help="one process, no process group")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")

    workers = solo() if arguments.solo else from_torchrun()
    system = get_system(arguments.system)
    config = resolve_config(system, arguments.preset, arguments.overrides)
    dataset = FaceDataset(arguments.data, "train", config.size, system.labels)
    training = Training.start(system, config, workers)
    progress = Progress(arguments.out, system.name, 0) if workers.rank == 0 else None
    run(training, dataset, lambda *_: None, progress)
    if progress:
        progress.close()
        torch.save({k: n.state_dict() for k, n in training.networks.items()}, Path(arguments.out) / "final.pt")
    if not arguments.solo:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
