"""What the identity guard lets through: the figures behind its threshold and its view (docs/benchmarks.md).

    python benchmarks/identity_guard.py DATA [DATA ...] [--model recognition] [--view 48,256] [--split validation]

DATA are data sets of 256-px crops that `rayface data` wrote. From each photo come degraded inputs (the pinned easy,
medium and hard of the evaluation; the photo at 16, 24, 32, 48 px a side, made large again), and from these:

- enhanced: what the release's enhancer makes of the input; it should pass;
- restored: the clear photo itself, the best that any enhancer could do; it should pass;
- swapped: another person's clear face, its colours matched, blended into the input's face; it should fail;
- half swapped: half of that change;
- brighter, warmer, smoother: changes of the input that concern nobody's identity; they should pass.

Strangers are the other photos of the same data set at fixed distances in its list. Cosines are between the input and
what was made of it, in a view of so many pixels a side. With --pairs PHOTOS, also those of different people in a data
set with known identities. At the end the time of a face on one thread.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate, normalize

from rayface import guard as guarding
from rayface.data.dataset import FaceDataset
from rayface.data.degradation import degrade, severity_sets
from rayface.evaluation.metrics import bootstrap
from rayface.imaging.codec import to_float, to_uint8
from rayface.imaging.filters import gaussian_blur
from rayface.pipeline import load_step
from rayface.records import PARSING_CLASSES
from rayface.store import open_store

FACE = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")
SIDES = (16, 24, 32, 48)
STRANGERS = (7, 17)  # places further in the list


def inputs(clear: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Name and degraded photos, uint8 [N, 3, S, S]."""
    yield "clear", clear
    for name, (config, generators) in severity_sets(range(len(clear))).items():
        yield name, to_uint8(degrade(to_float(clear), config, generators))
    for side in SIDES:
        small = interpolate(clear.float(), (side, side), mode="bicubic", antialias=True).round().clamp(0, 255)
        large = interpolate(small, clear.shape[-2:], mode="bicubic")
        yield f"{side} px", large.round().clamp(0, 255).to(torch.uint8)


def swapped(photos: Tensor, strangers: Tensor, region: Tensor, share: float = 1.0) -> Tensor:
    """The strangers' faces in the photos', uint8 [N, 3, S, S] each; `region` float [N, 1, S, S] of the photos."""
    weight = region.sum((2, 3), keepdim=True)
    shift = ((photos.float() - strangers.float()) * region).sum((2, 3), keepdim=True) / weight
    change = (strangers.float() + shift - photos.float()) * region * share
    return (photos.float() + change).round().clamp(0, 255).to(torch.uint8)


def harmless(photos: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Changes of a photo that concern nobody's identity."""
    levels = photos.float()
    yield "brighter by 40", (levels + 40).clamp(0, 255).to(torch.uint8)
    warm = levels + torch.tensor([25.0, 5.0, -25.0])[:, None, None]
    yield "warmer by 25", warm.clamp(0, 255).to(torch.uint8)
    yield "smoother (3 px)", gaussian_blur(levels, 3.0).round().to(torch.uint8)


def show(name: str, what: str, cosines: np.ndarray, threshold: float) -> None:
    passing = bootstrap((cosines >= threshold).astype(np.float64))
    low, median, high = np.quantile(cosines, (0.05, 0.5, 0.95))
    print(
        f"| {name} | {what} | {len(cosines)} | {cosines.min():.3f} | {low:.3f} | {median:.3f} | {high:.3f} | "
        f"{cosines.max():.3f} | {passing['value']:.3f} ({passing['low']:.3f} to {passing['high']:.3f}) |",
        flush=True,
    )


def different_people(guard: guarding.Guard, path: str, split: str, count: int) -> None:
    """All pairs of different people among the first `count` photos of a split with known identities."""
    faces = FaceDataset(path, split, 256)
    chosen = np.flatnonzero(faces.identity_index >= 0)[:count]
    found = normalize(guard.embed(faces.batch(chosen.tolist())["image"])).numpy()  # type: ignore[arg-type]
    first, second = np.triu_indices(len(chosen), 1)
    apart = faces.identity_index[chosen[first]] != faces.identity_index[chosen[second]]
    cosines = (found @ found.T)[first[apart], second[apart]]
    print(
        f"{len(cosines)} pairs of different people of {split}: 1 in 500 above {np.quantile(cosines, 0.998):.4f}, "
        f"1 in 30 000 above {np.quantile(cosines, 1 - 1 / 30000):.4f}, largest {cosines.max():.4f}; "
        f"{(cosines >= guard.threshold).sum()} at least {guard.threshold:g}"
    )


def measure(guards: dict[int, guarding.Guard], clear: Tensor, strangers: list[Tensor], region: Tensor) -> None:
    enhance = load_step(open_store(), "enhancement")
    print("| input | made of it | pairs | lowest | 5 % | median | 95 % | highest | pass |\n|" + " --- |" * 9)
    for name, photos in inputs(clear):
        made: dict[str, list[Tensor]] = {
            "enhanced": [torch.cat([enhance(photo[None], {}) for photo in photos])],
            "swapped": [swapped(photos, other, region) for other in strangers],
            "half swapped": [swapped(photos, other, region, 0.5) for other in strangers[:1]],
        }
        if name != "clear":
            made["restored"] = [clear]
        if name in ("clear", "medium"):
            made |= {what: [changed] for what, changed in harmless(photos)}
        for view, guard in guards.items():
            guarding.VIEW = view
            known = guard.embed(photos)
            for what, versions in made.items():
                cosines = torch.cat([cosine_similarity(known, guard.embed(after)) for after in versions]).numpy()
                show(f"{name}, view {view}", what, cosines, guard.threshold)


def milliseconds(guard: guarding.Guard, crops: Tensor) -> float:
    """Median time of one changed face that passes: its crop before and after."""
    times = []
    for crop in crops[:20]:
        started = time.perf_counter()
        guard.embed(crop[None])
        guard.embed(crop[None])
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--model", default="recognition")
    parser.add_argument("--view", default=str(guarding.VIEW))
    parser.add_argument("--split", default="validation")
    parser.add_argument("--photos", type=int, default=1000, help="of each data set, at most")
    parser.add_argument("--pairs", default="", help="a data set with identities: its pairs of different people")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    store = open_store()
    guards = {int(view): guarding.Guard.load(store, arguments.model) for view in arguments.view.split(",")}
    guard = next(iter(guards.values()))
    print(f"{guard.model}, threshold {guard.threshold:g}")
    guarding.VIEW = next(iter(guards))
    if arguments.pairs:
        for split in ("train", "validation"):
            different_people(guard, arguments.pairs, split, 700)
    sets: list[Tensor] = []
    for path in arguments.data:
        faces = FaceDataset(path, arguments.split, 256)
        sets.append(faces.batch(range(min(len(faces), arguments.photos)))["image"])  # type: ignore[arg-type]
    clear = torch.cat(sets)
    strangers = [torch.cat([photos.roll(-place, 0) for photos in sets]) for place in STRANGERS]
    parse = load_step(store, "parsing")
    masks = torch.cat([parse.masks(photo[None]) for photo in clear])
    inner = torch.tensor([name in FACE for name in PARSING_CLASSES])
    measure(guards, clear, strangers, gaussian_blur(inner[masks.long()].float()[:, None], 4.0))
    guarding.VIEW = next(iter(guards))
    print(f"{milliseconds(guard, clear):.1f} ms a changed face on one thread")


if __name__ == "__main__":
    main()
