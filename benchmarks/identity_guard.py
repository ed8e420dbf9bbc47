"""What the identity guard lets through: the figures behind its threshold and its view (docs/identity-guard.md).

    python benchmarks/identity_guard.py [DATA ...] [--model recognition] [--view 48,256] [--pairs DIR]

DATA are data sets of 256-px crops that `rayface data` wrote. From each photo come degraded inputs (the pinned easy,
medium and hard of the evaluation; the photo at 16, 24, 32, 48 px a side, made large again), and from these:

- enhanced: what the release's enhancer makes of the input; it should pass;
- restored: the clear photo itself, the best that any enhancer could do; it should pass;
- swapped: another person's clear face, its colours matched, blended into the input's face; it should fail;
- half swapped: half of that change;
- brighter, warmer, smoother: changes of the input that concern nobody's identity; they should pass.

Strangers are the other photos of the same data set at fixed distances in its list. Cosines are between the input and
what was made of it, in a view of so many pixels a side. With --pairs DIR, also those of all pairs of photos in a data
set with known identities, of the same person and of different ones. At the end the time of a face on one thread.
"""

import argparse
import time
from collections.abc import Callable, Iterator

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


def show(name: str, what: str, guard: guarding.Guard, known: Tensor, before: Tensor, after: Tensor) -> None:
    """One row: the cosines, the share that passes, and the share of which at least half of the change is kept."""
    alike = cosine_similarity(known, guard.embed(after))
    kept, failed = torch.ones(len(alike)), alike < guard.threshold
    kept[failed] = guarding.kept_shares(guard, known[failed], before[failed], after[failed])
    cosines = alike.numpy()
    passing = bootstrap((cosines >= guard.threshold).astype(np.float64))
    low, median, high = np.quantile(cosines, (0.05, 0.5, 0.95))
    print(
        f"| {name} | {what} | {len(cosines)} | {cosines.min():.3f} | {low:.3f} | {median:.3f} | {high:.3f} | "
        f"{cosines.max():.3f} | {passing['value']:.3f} ({passing['low']:.3f} to {passing['high']:.3f}) | "
        f"{(kept > 0).float().mean():.3f} |",
        flush=True,
    )


def known_people(guard: guarding.Guard, path: str, split: str | None) -> None:
    """All pairs among up to 700 photos of a split with known identities."""
    faces = FaceDataset(path, split, 256)
    chosen = np.flatnonzero(faces.identity_index >= 0)[:700]
    found = normalize(guard.embed(faces.batch(chosen.tolist())["image"])).numpy()  # type: ignore[arg-type]
    first, second = np.triu_indices(len(chosen), 1)
    apart = faces.identity_index[chosen[first]] != faces.identity_index[chosen[second]]
    cosines = (found @ found.T)[first, second]
    if not apart.all():
        same = ", ".join(f"{value:.3f}" for value in np.quantile(cosines[~apart], (0.05, 0.25, 0.5, 0.75, 0.95)))
        passing = (cosines[~apart] >= guard.threshold).mean()
        print(f"{(~apart).sum()} pairs of one person: 5, 25, 50, 75, 95 % {same}; {passing:.3f} pass")
    cosines = cosines[apart]
    print(
        f"{len(cosines)} pairs of different people of split {split}: 1 in 500 above {np.quantile(cosines, 0.998):.4f}, "
        f"1 in 30 000 above {np.quantile(cosines, 1 - 1 / 30000):.4f}, largest {cosines.max():.4f}; "
        f"{(cosines >= guard.threshold).sum()} at least {guard.threshold:g}"
    )


def measure(guards: dict[int, guarding.Guard], clear: Tensor, strangers: list[Tensor], region: Tensor) -> None:
    enhance = load_step(open_store(), "enhancement")
    print("| input | made of it | pairs | lowest | 5 % | median | 95 % | highest | pass | changed |\n|" + " --- |" * 10)
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
            known = guard.embed(photos)
            for what, versions in made.items():
                times = len(versions)
                before, after = photos.repeat(times, 1, 1, 1), torch.cat(versions)
                show(f"{name}, view {view}", what, guard, known.repeat(times, 1), before, after)


def milliseconds(work: Callable[[Tensor], object], crops: Tensor) -> float:
    """Median CPU time of one crop."""
    times = []
    for crop in crops[:20]:
        started = time.thread_time()
        work(crop[None])
        times.append(1000 * (time.thread_time() - started))
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*")
    parser.add_argument("--model", default="recognition")
    parser.add_argument("--view", default=str(guarding.VIEW))
    parser.add_argument("--split", default="validation")
    parser.add_argument("--photos", type=int, default=1000, help="of each data set, at most")
    parser.add_argument("--pairs", default="", help="a data set with identities")
    parser.add_argument("--pairs-splits", default="train,validation", help="its splits; all: the whole")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    store = open_store()
    guards = {int(view): guarding.Guard.load(store, arguments.model) for view in arguments.view.split(",")}
    for view, guard in guards.items():
        guard.view = view
    guard = next(iter(guards.values()))
    print(f"{guard.model}, threshold {guard.threshold:g}")
    for split in arguments.pairs_splits.split(",") if arguments.pairs else ():
        known_people(guard, arguments.pairs, None if split == "all" else split)
    if not arguments.data:
        return
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
    both = milliseconds(lambda crop: (guard.embed(crop), guard.embed(crop)), clear)
    enhance = load_step(store, "enhancement")
    print(
        f"{both:.0f} ms of CPU time on one thread for a changed face (before and after); enhancer "
        f"{milliseconds(lambda crop: enhance(crop, {}), clear):.0f} ms, parser {milliseconds(parse.masks, clear):.0f}"
    )


if __name__ == "__main__":
    main()
