"""Faces of a test split before and after a step, for eyes: each pair before above after.

    python -m benchmarks.contact_sheet beautify --data DIR --out sheet.jpg [--model REF] [--store STORE] [--count 24]
        [--where Attractive=-1] [--param style=full] [--param add=Bangs] [--strength 1]

The faces are spread evenly over those that meet --where (attributes, 1 or -1), none is chosen by its looks. With `swap`
each gets the face of the one before it, which is shown between.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from rayface.data.dataset import FaceDataset
from rayface.evaluation.pictures import grid
from rayface.imaging.codec import encode
from rayface.pipeline import SWAP, default_models, load_step
from rayface.records import ATTRIBUTE_ID
from rayface.stages import STEP_PARAMS
from rayface.store import open_store
from rayface.work import check_asked, check_params

COLUMNS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--store", default="")
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--where", action="append", default=[], help="attribute=1 or attribute=-1")
    parser.add_argument("--param", action="append", default=[], help="a parameter of the step, for example style=full")
    parser.add_argument("--strength", type=float, default=1.0)
    arguments = parser.parse_args()
    model = arguments.model or default_models([arguments.step])[arguments.step]
    step = load_step(open_store(arguments.store or None), model)
    dataset = FaceDataset(arguments.data, arguments.split, step.size)
    attributes = np.asarray(dataset.batch(range(len(dataset)), ("attributes",))["attributes"])
    meets = np.ones(len(dataset), bool)
    for condition in arguments.where:
        name, _, value = condition.partition("=")
        meets &= attributes[:, ATTRIBUTE_ID[name]] == int(value)
    found = np.flatnonzero(meets)
    chosen = found[np.linspace(0, len(found) - 1, min(arguments.count, len(found))).round().astype(int)]
    before = dataset.batch(chosen)["image"]
    assert isinstance(before, torch.Tensor)
    asked = check_params(dict(param.split("=", 1) for param in arguments.param))
    check_asked([arguments.step], asked)
    params = {name: [getattr(asked, name)] * len(before) for name in STEP_PARAMS}
    shown = [before]
    if arguments.step == SWAP:
        shown.append(before.roll(1, 0))
        params["donor"] = list(shown[-1].numpy())
    change = step(before, params).float() - before.float()
    after = (before.float() + arguments.strength * change).round().clamp(0, 255).to(torch.uint8)
    parts = zip(*(crops.split(COLUMNS) for crops in (*shown, after)), strict=True)
    rows = [row for together in parts for row in together]
    Path(arguments.out).write_bytes(encode(grid(rows), "jpeg"))
    print(f"{len(chosen)} of {len(found)} faces: {', '.join(dataset.ids[index] for index in chosen)}")


if __name__ == "__main__":
    main()
