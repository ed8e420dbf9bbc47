"""What docs/benchmarks.md says of super-resolution besides `rayface evaluate`'s table.

python benchmarks/super_resolution.py speed [--threads 2]     seconds and memory for 2 megapixels; 12 and the cap
python benchmarks/super_resolution.py seams --data DIR        tiled against untiled
python benchmarks/super_resolution.py heads --data DIR        x4 in one go against x2 twice
python benchmarks/super_resolution.py faces --data DIR        faces cut out before or after upscaling (x2)
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.data.degradation import degrade, severity_sets
from rayface.data.reduction import shrink
from rayface.evaluation.judges import JudgedMetric
from rayface.evaluation.metrics import bootstrap, psnr
from rayface.evaluation.super_resolution import bicubic, pinned_inputs
from rayface.imaging.codec import to_float, to_uint8
from rayface.pipeline import load_step
from rayface.stages import enlarge
from rayface.store import open_store
from rayface.work import MAX_OUTPUT_MEGAPIXELS, Params, Photo

Rows = Iterator[dict[str, Any]]


def noise(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def speed(step: Any, arguments: argparse.Namespace) -> Rows:
    step(noise(300, 300), 2)  # kernels are made at the first call
    for height, width, scale in ((1200, 1667, 2), (1200, 1667, 4), (3000, 4000, 2), (3000, 4000, 4)):
        started, used = time.perf_counter(), time.process_time()
        photo = enlarge(step, Photo.of(noise(height, width)), Params(scale=scale), arguments.megapixels)
        yield {
            "input": f"{width} x {height}",
            "asked": f"x{scale}",
            "output": "{2} x {1}".format(*photo.pixels.shape),
            "seconds": round(time.perf_counter() - started, 2),
            "cpu_seconds": round(time.process_time() - used, 2),
            "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
            "notes": photo.notes,
        }


def seams(step: Any, arguments: argparse.Namespace) -> Rows:
    import rayface.systems.super_resolution as system

    crops = photos(arguments)[:16]
    rows = [torch.cat(list(crops[first : first + 4]), 2) for first in range(0, len(crops), 4)]
    photo = torch.cat(rows, 1)
    for scale in step.scales:
        tiled = step(photo, scale)
        tile, system.TILE = system.TILE, max(photo.shape)
        at_once = step(photo, scale)
        system.TILE = tile
        largest = int((tiled.int() - at_once.int()).abs().max())
        yield {"scale": scale, "photo": list(photo.shape), "tile": tile, "largest_difference_in_levels": largest}


def heads(step: Any, arguments: argparse.Namespace) -> Rows:
    clear, perceptual = photos(arguments), JudgedMetric("perceptual_distance", torch.device("cpu"))
    for case, _, small in pinned_inputs(clear, (4,), range(len(clear))):
        one = torch.stack([step(photo, 4) for photo in small])
        two = torch.stack([step(step(photo, 2), 2) for photo in small])
        yield {
            "case": case,
            "psnr_head_minus_twice": bootstrap((psnr(one, clear) - psnr(two, clear)).numpy()),
            "perceptual_head_minus_twice": bootstrap((perceptual(one, clear) - perceptual(two, clear)).numpy()),
        }


def faces(step: Any, arguments: argparse.Namespace) -> Rows:
    """Faces of 128 px, degraded, whose result is seen at 256 px: the pipeline cuts them out of the upscaled photo."""
    clear, perceptual = photos(arguments), JudgedMetric("perceptual_distance", torch.device("cpu"))
    enhance = load_step(open_store(arguments.store or None), "enhancement")
    for severity, (config, generators) in severity_sets(range(len(clear))).items():
        small = to_uint8(shrink(degrade(to_float(clear), config, generators), 2))
        upscaled = torch.stack([step(photo, 2) for photo in small])
        made = {"upscaled": upscaled}
        for name, crops in (("enhanced_before", bicubic(small, 2)), ("enhanced_after", upscaled)):
            made[name] = torch.cat([enhance(crop[None], {}) for crop in crops])
        for name, large in made.items():
            measured = {"psnr": psnr(large, clear), "perceptual_distance": perceptual(large, clear)}
            yield {"severity": severity, "method": name, **{k: bootstrap(v.numpy()) for k, v in measured.items()}}


def photos(arguments: argparse.Namespace) -> Tensor:
    dataset = FaceDataset(arguments.data, arguments.split, 256)
    found = dataset.batch(range(min(arguments.limit, len(dataset))))["image"]
    assert isinstance(found, Tensor)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "seams", "heads", "faces"))
    parser.add_argument("--data", default="")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--store", default="")
    parser.add_argument("--model", default="super_resolution")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--megapixels", type=float, default=MAX_OUTPUT_MEGAPIXELS, help="the output cap")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    step = load_step(open_store(arguments.store or None), arguments.model)
    for row in {"speed": speed, "seams": seams, "heads": heads, "faces": faces}[arguments.what](step, arguments):
        print(json.dumps({"model": step.model, **row}), flush=True)


if __name__ == "__main__":
    main()
