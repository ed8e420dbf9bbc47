"""Is an attribute seen that was not, or no more, on the same person, with all else as it was? Judges say (SPEC D3)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rayface.evaluation import limits
from rayface.evaluation.gallery import Gallery, people_in
from rayface.evaluation.judges import ask, judged_metrics, judging
from rayface.evaluation.limits import Values
from rayface.evaluation.metrics import bootstrap, psnr
from rayface.evaluation.subgroups import record
from rayface.imaging.filters import resize_images
from rayface.records import ATTRIBUTE_ID

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

Draw = Callable[[Tensor], Tensor]  # crops uint8 [N, 3, S, S] -> the same as drawn from their latents
# crops uint8 [N, 3, S, S], wanted float [K, N, A] (1 with, 0 without, nan as it is) -> K lists of changed crops
Edit = Callable[[Tensor, Tensor], list[Tensor]]
SIDE = 256
# What the attribute judge tells with an AUC of at least 0.9 (docs/judges.md): others are no evidence of a change.
TOLD = (
    "Wearing_Hat", "Bald", "Male", "Eyeglasses", "Bangs", "Wearing_Lipstick", "No_Beard", "Wearing_Necktie",
    "Blond_Hair", "Sideburns", "Gray_Hair", "Smiling", "Heavy_Makeup", "Goatee", "Black_Hair", "Rosy_Cheeks",
    "Mouth_Slightly_Open",
)  # fmt: skip

# Per edit: at least, or at most; one that meets them all counts as `joint`.
LIMITS: dict[str, tuple[str, float]] = {
    "flipped": ("least", 1.0),
    "ranks_first": ("least", 1.0),
    "others_agree": ("least", 0.9),
}


def inversion_report(
    draws: Mapping[str, Draw], dataset: "FaceDataset", batch: int, limit: int | None
) -> dict[str, Any]:
    """Of each way to find latents: PSNR and the judges' distances of drawn faces to the photos, with intervals.

    At the side at which they are drawn.
    """
    metrics = judged_metrics()
    values: dict[tuple[str, str], list[Tensor]] = {}
    for _, crops in _batches(dataset, min(len(dataset), limit or len(dataset)), batch):
        drawn = {name: draw(crops) for name, draw in draws.items()}
        photos = {made.shape[-1]: resize_images(crops, made.shape[-1]) for made in drawn.values()}
        large = {side: resize_images(small, SIDE) for side, small in photos.items()}  # judges know them again
        for name, made in drawn.items():
            side = made.shape[-1]
            values.setdefault((name, "psnr"), []).append(psnr(made, photos[side]))
            for metric, measure in metrics.items():
                seen = measure(resize_images(made, SIDE), large[side])
                values.setdefault((name, metric), []).append(seen)
    report: dict[str, Any] = {}
    for (name, metric), parts in values.items():
        report.setdefault(name, {})[metric] = bootstrap(torch.cat(parts).numpy())
    return report


def first_guess_report(
    losses: Callable[[Tensor, bool], Tensor], dataset: "FaceDataset", batch: int, limit: int | None
) -> dict[str, Any]:
    """How many steps of the search the learned first guess saves.

    `losses`: of crops uint8 [N, 3, S, S], with the guess or without, those of each step, float [steps, N].
    `steps_saved`: of all steps without it, those that are left when the search with it is as far; negative where it
    never is; `loss`: at the beginning and the end, with and without.
    """
    with_guess, without = ([], [])
    for _, crops in _batches(dataset, min(len(dataset), limit or len(dataset)), batch):
        with_guess.append(losses(crops, True))
        without.append(losses(crops, False))
    ours, theirs = torch.cat(with_guess, 1).cpu(), torch.cat(without, 1).cpu()
    steps = len(ours)
    reached = ours <= theirs[-1]
    needed = torch.where(reached.any(0), reached.float().argmax(0), steps + 1)
    return {
        "steps": steps,
        "steps_saved": bootstrap((steps - 1 - needed).float().numpy(), np.median),
        "loss": {
            "with": {"first": float(ours[0].mean()), "last": float(ours[-1].mean())},
            "without": {"first": float(theirs[0].mean()), "last": float(theirs[-1].mean())},
        },
    }


def edits_report(
    edit: Edit, dataset: "FaceDataset", labels: Sequence[str], batch: int, limit: int | None
) -> dict[str, Any]:
    """Judge edits of the first `limit` faces of `dataset`: of each attribute of `labels` the opposite of what the judge
    sees in the photo.

    For all edits (`all`), those that add and that remove, and of each attribute, with intervals over edits:
    - flipped: the judge's answer is the other one;
    - identity_distance (dlib, median) and ranks_first: of PEOPLE people the photo is the nearest to the edit;
    - others_agree: share of the other attributes that the judge tells (TOLD) with the same answer;
    - joint: edits that meet all of LIMITS. {} without the attribute judge.
    """
    panel = judging()
    attributes = panel.network("attributes", ("flipped", "others_agree"))
    identity = panel.network("identity", ("identity_distance", "ranks_first"))
    if attributes is None:
        return {}
    gallery = None if identity is None else Gallery(dataset, identity, batch)
    places = [ATTRIBUTE_ID[label] for label in labels]
    told = np.array([ATTRIBUTE_ID[name] for name in TOLD])
    parts: list[Values] = []
    for indices, crops in _batches(dataset, min(len(dataset), limit or len(dataset)), batch):
        before = resize_images(crops, SIDE)
        old = ask(attributes, before, panel.device).numpy() > 0.5
        known = None if identity is None else ask(identity, before, panel.device)
        wanted = torch.full((len(labels), len(crops), len(labels)), float("nan"))
        for number, place in enumerate(places):
            wanted[number, :, number] = torch.from_numpy(~old[:, place]).float()
        for number, changed in enumerate(edit(crops, wanted)):
            after = resize_images(changed, SIDE)
            new = ask(attributes, after, panel.device).numpy() > 0.5
            others = told[told != places[number]]
            values: Values = {
                "face": indices,
                "attribute": np.full(len(crops), number),
                "adding": (~old[:, places[number]]).astype(float),
                "flipped": (new != old)[:, places[number]].astype(float),
                "others_agree": (new == old)[:, others].mean(1),
            }
            if gallery is not None and identity is not None and known is not None:
                values |= gallery.compared(indices, ask(identity, after, panel.device), known)
            parts.append(values)
    values = {measure: np.concatenate([part[measure] for part in parts]) for measure in parts[0]}
    _record(values, len(dataset))
    chosen = {"all": values["face"] >= 0, "adding": values["adding"] > 0, "removing": values["adding"] == 0}
    chosen |= {label: values["attribute"] == number for number, label in enumerate(labels)}
    report: dict[str, Any] = {"people": people_in(dataset)}
    measured = {name: value for name, value in values.items() if name not in ("face", "attribute", "adding")}
    for name, rows in chosen.items():
        if rows.any():
            some = {measure: value[rows] for measure, value in measured.items()}
            report[name] = {"edits": int(rows.sum()), **limits.summary(some, LIMITS, shares=("flipped", "ranks_first"))}
    return report


def _batches(dataset: "FaceDataset", faces: int, batch: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Indices int64 [N] and crops uint8 [N, 3, S, S] of the first `faces`."""
    for first in range(0, faces, batch):
        indices = np.arange(first, min(first + batch, faces))
        crops = dataset.batch(indices, ("image",))["image"]
        assert isinstance(crops, Tensor)
        yield indices, crops


def _record(values: Values, faces: int) -> None:
    """Hand over what subgroups are reported by: of each face the share of its edits that are `joint`."""
    if not LIMITS.keys() <= values.keys():
        return
    met, whole = limits.joint(values, LIMITS), np.full(faces, np.nan)
    for face in np.unique(values["face"]):
        whole[face] = met[values["face"] == face].mean()
    record("joint", whole)
