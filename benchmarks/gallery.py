"""The pictures of docs/evidence-gallery.md: drawn scenes before and after the released models.

    python -m benchmarks.gallery [--out docs/images/gallery] [--store STORE] [--only enhance parse ...]

Scenes are chosen by number, not by how they come out. The whole pipeline runs: detector, step, identity guard, parser,
fusion. Nobody in them exists.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayface.data.degradation import degrade, preset
from rayface.data.synth import draw_scene
from rayface.imaging.codec import encode, to_float, to_uint8
from rayface.pipeline import Pipeline
from rayface.records import PARSING_COLOURS
from rayface.stages import detect_faces, parse_faces
from rayface.store import open_store
from rayface.work import Params, Photo

SEED, SIZE, PEOPLE = 11, (360, 480), 2
GAP = 8
STEPS: dict[str, tuple[int, dict[str, Any]]] = {  # step -> scene, parameters
    "beautify": (3, {}),
    "facial_hair": (4, {"style": "full"}),
    "edit_attributes": (2, {"add": "Smiling"}),
    "swap": (1, {"consent": "true"}),
}
DONOR = 5  # the scene of whom `swap` takes the largest face


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/gallery"))
    parser.add_argument("--store", default="")
    parser.add_argument("--only", nargs="+", default=["enhance", "parse", *STEPS], help="pictures; else all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = open_store(arguments.store or None)
    for name in arguments.only:
        if name in STEPS:
            picture, told = changed(store, name, *STEPS[name])
        else:
            picture, told = enhanced(store) if name == "enhance" else parsed(store)
        path = arguments.out / f"{name}.jpg"
        path.write_bytes(encode(picture, "jpeg", 88))
        print(f"{path}: {path.stat().st_size / 1000:.0f} KB; {told}")


def scene(number: int) -> Tensor:
    return draw_scene(SEED, number, SIZE, PEOPLE).photo


def changed(store: Any, step: str, number: int, given: dict[str, Any]) -> tuple[Tensor, str]:
    """A scene before and after a step, side by side; of `swap` the donor's scene between."""
    pipeline, before = Pipeline.from_store(store, [step]), scene(number)
    shown, params = [before], dict(given)
    if step == "swap":
        params["donor"] = pipeline.donor(encode(scene(DONOR), "png"))
        shown.append(scene(DONOR))
    start = time.monotonic()
    result = pipeline.process(before, [step], params)
    told = f"{result.report.changed} of {len(result.report.faces)} faces changed, {time.monotonic() - start:.1f} s"
    return side_by_side([*shown, result.photo]), told


def enhanced(store: Any) -> tuple[Tensor, str]:
    """A scene, what easy degradation makes of it, and that enhanced."""
    clear = scene(0)
    generator = np.random.default_rng(0)
    side = max(SIZE)
    square = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    square[0, :, : SIZE[0], : SIZE[1]] = clear
    bad = to_uint8(degrade(to_float(square), preset("easy"), [generator]))[0, :, : SIZE[0], : SIZE[1]]
    result = Pipeline.from_store(store, ["enhance"]).process(bad.contiguous(), ["enhance"])
    return side_by_side([clear, bad, result.photo]), f"{result.report.changed} of {len(result.report.faces)} changed"


def parsed(store: Any) -> tuple[Tensor, str]:
    """The aligned faces of four scenes above their masks in colours."""
    pipeline = Pipeline.from_store(store, ["enhance"])
    assert pipeline.detector is not None
    assert pipeline.parser is not None
    photos = [Photo.of(scene(number)) for number in range(4)]
    works = detect_faces(pipeline.detector, photos, [Params()] * 4, 8, pipeline.crop_size)
    seen = parse_faces(pipeline.parser, works, [True] * 4)
    faces = torch.cat([torch.from_numpy(work.crops) for work in seen])[:, :, ::2, ::2]
    masks = np.concatenate([work.masks for work in seen if work.masks is not None])[:, ::2, ::2]
    colours = torch.from_numpy(PARSING_COLOURS[masks]).permute(0, 3, 1, 2)
    return torch.cat(
        [side_by_side(list(row)) for row in (faces, colours)], 1
    ), f"{len(faces)} of {4 * PEOPLE} faces found"


def side_by_side(pictures: list[Tensor]) -> Tensor:
    """Pictures uint8 [3, H, W] of one height in a row on white."""
    gap = torch.full((3, pictures[0].shape[1], GAP), 255, dtype=torch.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return torch.cat(parts[:-1], 2)


if __name__ == "__main__":
    main()
