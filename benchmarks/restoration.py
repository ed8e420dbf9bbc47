"""Enhancement models in one table: the degraded input, classical filters, other models of the store, Real-ESRGAN.

    python benchmarks/restoration.py --data DIR --model enhancement --beside small=enhancement_small \
        [--split test] [--limit 24] [--realesrgan]

The degradations are the pinned ones of `rayface evaluate`. Real-ESRGAN needs its package (benchmarks/realesrgan.py says
how) and takes seconds a crop. Prints what `rayface evaluate` reports, with the further methods in it, as JSON, and the
table.
"""

import argparse
import json
import time

import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.evaluation.restoration import COMPARISONS, Predict, restoration_report
from rayface.store import ModelStore, open_store
from rayface.systems.enhancement import enhance

SHOWN = ("psnr", "ssim", "perceptual_distance", "identity_distance", "identity_distance_second", "colour_shift")


class Timed:
    """A method that counts its seconds."""

    def __init__(self, restore: Predict) -> None:
        self.restore, self.seconds = restore, 0.0

    def __call__(self, crops: Tensor) -> Tensor:
        started = time.perf_counter()
        restored = self.restore(crops)
        self.seconds += time.perf_counter() - started
        return restored


def method(store: ModelStore, ref: str, size: int) -> Timed:
    loaded = store.load(ref)
    if loaded.config.size != size:
        raise SystemExit(f"{loaded.ref} works at {loaded.config.size} px, the first model at {size} px")
    return Timed(lambda crops: enhance(loaded.networks["enhancer"], crops, torch.device("cpu")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="enhancement")
    parser.add_argument("--beside", action="append", default=[], help="NAME=REF, may be repeated")
    parser.add_argument("--store", default=None)
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--realesrgan", action="store_true")
    arguments = parser.parse_args()

    store = open_store(arguments.store)
    size = store.load(arguments.model).config.size
    ours = method(store, arguments.model, size)
    others = {name: method(store, ref, size) for name, ref in (pair.split("=", 1) for pair in arguments.beside)}
    if arguments.realesrgan:
        from realesrgan import realesrgan  # the script beside this one

        others["realesrgan"] = Timed(realesrgan)
    dataset = FaceDataset(arguments.data, arguments.split, size)
    report = restoration_report(ours, dataset, 8, arguments.limit, others)
    timed = {"model": ours, **others}
    seconds = {name: round(restore.seconds, 1) for name, restore in timed.items()}
    print(json.dumps({"seconds": seconds, "metrics": report}, indent=1))
    for severity in ("easy", "medium", "hard", "all"):
        print(f"\n| {severity} | " + " | ".join(SHOWN) + " |\n|---|" + "---|" * len(SHOWN))
        for name, values in report[severity].items():
            if name not in COMPARISONS:
                cells = (f"{values[metric]['value']:.3f}" if metric in values else "-" for metric in SHOWN)
                print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
