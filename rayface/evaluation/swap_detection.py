"""How well swapped faces are told from real ones: by method, also by one never trained on, and after compression.

Of each method the area under the ROC curve against the real photos of the same split, as they are stored, after JPEG
and after being made half as large and back. The classical swap, `blend`, is made here, of people of the split, so that
no training can have seen it. The baseline is what needs no training: how much fine detail the face has.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rayface.errors import RayfaceError
from rayface.evaluation.classical_swap import blended
from rayface.evaluation.metrics import RankedScores, bootstrap, weighted_bootstrap
from rayface.evaluation.subgroups import record
from rayface.imaging.codec import decode, encode
from rayface.imaging.filters import luminance, resize_images
from rayface.networks.swap_detector import middle_part, residuals
from rayface.randomness import generator

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

Judge = Callable[[Tensor], Tensor]  # crops uint8 [N, 3, S, S] -> probabilities float [N] that they were swapped
Array = np.ndarray

UNSEEN = "blend"  # the method that no detector is trained on
EVALUATION_SEED = 60606
THRESHOLD = 0.5  # swapped from this probability on
STORED_QUALITY, JPEG_QUALITY = 95, 70
DRAWS = 500  # of the bootstrap
BINS = 10  # of the reliability table


def jpeg(crops: Tensor, quality: int) -> Tensor:
    """Crops uint8 [N, 3, S, S] through a JPEG file."""
    return torch.stack([decode(encode(crop, "jpeg", quality)) for crop in crops])


def halved(crops: Tensor) -> Tensor:
    """Crops uint8 [N, 3, S, S] made half as large, and enlarged again."""
    side = crops.shape[-1]
    return resize_images(resize_images(crops.float(), side // 2), side).round().clamp(0, 255).to(torch.uint8)


# What crops go through before they are judged. "" is as stored: the swaps made here are encoded as a set's are.
CONDITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda crops: crops,
    "jpeg70": lambda crops: jpeg(crops, JPEG_QUALITY),
    "half": halved,
}


def blend_pairs(faces: Sequence[int], people: Sequence[str | None]) -> list[tuple[int, int]]:
    """(texture, donor) for each of `faces`: another face of them that shows somebody else; drawn, always the same.

    `people` names who is on each face of the data set. Raises RayfaceError where all are of one person.
    """
    if len({people[face] for face in faces}) < 2 and not any(people[face] is None for face in faces):
        raise RayfaceError("all real faces of this split are of one person; swaps need two or more", kind="bad-labels")
    pairs = []
    if len(faces) < 2:
        raise RayfaceError("one real face cannot be swapped with another; take more", kind="bad-labels")
    for face in faces:
        others = [
            other for other in faces if other != face and (people[other] is None or people[other] != people[face])
        ]
        pairs.append((face, others[int(generator(EVALUATION_SEED, 0, face, "donor").integers(len(others)))]))
    return pairs


def detail(crops: Tensor) -> Array:
    """The fine detail of each face, float [N]: mean absolute second difference of luminance, of 0 to 1."""
    grey = luminance(crops)[:, None].expand(-1, 3, -1, -1)
    return residuals(middle_part(grey)).abs().mean((1, 2, 3)).numpy()


def swap_report(judge: Judge, dataset: "FaceDataset", batch: int, limit: int | None = None) -> dict[str, Any]:
    """The report on a split of a set of swaps, or of plain faces, which are then all real; `limit` of each kind.

    `own`: the methods that the set holds, but `blend`; `unseen`: `blend`, on pairs of its real photos. Of each `auc`,
    `auc_jpeg70`, `auc_half`, `baseline_auc` (less detail: swapped), `found` (share at THRESHOLD or above) and
    `calibration_error`; `reliability`: their tables by tenths of the probability. `false_alarms`: the share of real
    photos that count as swapped, by condition, and of those that a step only retouched, by its model.
    """
    kinds = _kinds(dataset, limit)
    real = kinds.pop(("real", ""), [])
    if not real:
        raise RayfaceError(f"{dataset.path} has no real faces in this split; take one that does", kind="missing-column")

    def scored(faces: Sequence[Any], load: Callable[[Sequence[Any]], Tensor]) -> dict[str, Array]:
        return _scores(judge, (load(faces[start : start + batch]) for start in range(0, len(faces), batch)))

    def stored(faces: Sequence[int]) -> Tensor:
        crops = dataset.batch(faces)["image"]
        assert isinstance(crops, Tensor)
        return crops

    scores = scored(real, stored)
    report: dict[str, Any] = {"real_photos": len(real), "own": {}, "unseen": {}, "false_alarms": {}}
    report["reliability"] = {}
    for (kind, name), faces in kinds.items():
        if kind == "swap" and name != UNSEEN:
            fakes = scored(faces, stored)
            report["own"][name] = method_report(fakes, scores)
            report["reliability"][name] = reliability(*_together(fakes, scores))
    pairs = blend_pairs(real, dataset.identities)
    blends = scored(pairs, lambda some: jpeg(blended(dataset, some), STORED_QUALITY))
    # encoded once more, as the blended ones are
    again = scored(real, lambda some: jpeg(stored(some), STORED_QUALITY))
    report["unseen"][UNSEEN] = method_report(blends, again)
    report["reliability"][UNSEEN] = reliability(*_together(blends, again))
    for condition in CONDITIONS:
        report["false_alarms"]["_".join(filter(None, ("real", condition)))] = _alarms(scores[condition])
    for (kind, name), faces in kinds.items():
        if kind == "retouched":
            report["false_alarms"][name] = _alarms(scored(faces, stored)[""])
    _record("false_alarms", real, scores[""] >= THRESHOLD, len(dataset))
    _record("blends_found", real, blends[""] >= THRESHOLD, len(dataset))
    return report


def method_report(fakes: dict[str, Array], real: dict[str, Array]) -> dict[str, Any]:
    """Scores by condition (and "detail") of fakes and of real faces -> what `swap_report` says of a method."""
    report: dict[str, Any] = {"swaps": len(fakes[""])}
    for condition in CONDITIONS:
        report["_".join(filter(None, ("auc", condition)))] = area(fakes[condition], real[condition])
    report["baseline_auc"] = area(-fakes["detail"], -real["detail"])
    report["found"] = bootstrap((fakes[""] >= THRESHOLD).astype(float))
    report["calibration_error"] = calibration_error(*_together(fakes, real))
    return report


def _together(fakes: dict[str, Array], real: dict[str, Array]) -> tuple[Array, Array]:
    """Probabilities of faces as they are stored, and which of them were swapped (1, 0)."""
    swapped = np.concatenate([np.ones(len(fakes[""])), np.zeros(len(real[""]))])
    return np.concatenate([fakes[""], real[""]]), swapped


def area(fakes: Array, real: Array) -> dict[str, Any]:
    """Area under the ROC curve with its interval: how often a fake scores above a real face; ties count half."""
    scores = np.concatenate([fakes, real])
    ranked = RankedScores(scores, np.arange(len(scores)) < len(fakes))
    found: dict[str, Any] = weighted_bootstrap(ranked.auc, len(scores), DRAWS)
    return found


def calibration_error(probabilities: Array, swapped: Array) -> dict[str, Any]:
    """Expected calibration error over BINS equal bins; fakes and real faces weigh alike, however many there are."""
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gap, balance = probabilities - swapped, _balance(swapped)

    def statistic(weights: Array) -> Array:
        weight = weights * balance
        return np.asarray(np.abs(np.bincount(bins, weight * gap, BINS)).sum() / weight.sum())

    found: dict[str, Any] = weighted_bootstrap(statistic, len(probabilities), DRAWS)
    return found


def reliability(probabilities: Array, swapped: Array) -> dict[str, dict[str, float]]:
    """Of each tenth of the probability that has faces: their number, mean probability and share that was swapped."""
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    balance = _balance(swapped)
    table = {}
    for number in np.unique(bins):
        chosen = bins == number
        weights = balance[chosen]
        table[f"{number / BINS:.1f} to {(number + 1) / BINS:.1f}"] = {
            "faces": int(chosen.sum()),
            "probability": float(np.average(probabilities[chosen], weights=weights)),
            "swapped": float(np.average(swapped[chosen], weights=weights)),
        }
    return table


def _balance(swapped: Array) -> Array:
    """Weights that make fakes and real faces half each."""
    share = swapped.mean()
    return np.where(swapped > 0, 0.5 / max(share, 1e-9), 0.5 / max(1 - share, 1e-9))


def _kinds(dataset: "FaceDataset", limit: int | None) -> dict[tuple[str, str], list[int]]:
    """Indices of the faces by (real, ""), (retouched, model) and (swap, method), the first `limit` of each."""
    columns = dataset.batch(range(len(dataset)), ("swap_method", "retouched_by"))
    kinds: dict[tuple[str, str], list[int]] = {}
    for index, (method, model) in enumerate(zip(columns["swap_method"], columns["retouched_by"], strict=True)):
        kind = ("swap", str(method)) if method else ("retouched", str(model)) if model else ("real", "")
        kinds.setdefault(kind, []).append(index)
    return {kind: faces[:limit] for kind, faces in kinds.items()}


def _scores(judge: Judge, batches: Iterable[Tensor]) -> dict[str, Array]:
    """Probabilities by condition, and "detail", each float [N]."""
    found: dict[str, list[Array]] = {name: [] for name in (*CONDITIONS, "detail")}
    for crops in batches:
        for condition, change in CONDITIONS.items():
            found[condition].append(judge(change(crops)).double().numpy())
        found["detail"].append(detail(crops))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _alarms(probabilities: Array) -> dict[str, Any]:
    return bootstrap((probabilities >= THRESHOLD).astype(float))


def _record(name: str, faces: Sequence[int], hits: Array, total: int) -> None:
    """Hand over what subgroups are reported by; other faces have no value."""
    values = np.full(total, np.nan)
    values[list(faces)] = hits
    record(name, values)
