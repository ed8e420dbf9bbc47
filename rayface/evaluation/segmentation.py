"""How well masks are found: F1 and IoU per class, pooled over photos, with intervals over photos."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from rayface.evaluation.judges import baselines_wanted
from rayface.evaluation.metrics import bootstrap
from rayface.evaluation.subgroups import record
from rayface.records import PARSING_CLASSES, PARSING_ID

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

# The regions that matter for fusion; eyes, brows and lips are pooled over left/right and upper/lower.
REGIONS = {
    "skin": ("skin",),
    "nose": ("nose",),
    "eyes": ("l_eye", "r_eye"),
    "brows": ("l_brow", "r_brow"),
    "mouth": ("mouth",),
    "lips": ("u_lip", "l_lip"),
    "hair": ("hair",),
    "neck": ("neck",),
}


def counts(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Per photo and class: pixels in both, only predicted, only target; int64 [N, 19, 3] of ids [N, S, S]."""
    classes = len(PARSING_CLASSES)
    result = np.empty((len(target), classes, 3), np.int64)
    for index, (ours, theirs) in enumerate(zip(predicted, target, strict=True)):
        pairs = theirs.astype(np.int64) * classes + ours
        confusion = np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)
        both = np.diag(confusion)
        result[index] = np.stack([both, confusion.sum(0) - both, confusion.sum(1) - both], 1)
    return result


def f1(pooled: np.ndarray) -> np.ndarray:
    """F1 of counts [..., 3]; NaN where the class is in neither."""
    both, extra, missed = pooled[..., 0], pooled[..., 1], pooled[..., 2]
    total = 2 * both + extra + missed
    return np.where(total > 0, 2 * both / np.maximum(total, 1), np.nan)


def region_f1(per_photo: np.ndarray) -> np.ndarray:
    """F1 per region of counts [N, 19, 3] pooled over photos; left taken for right is wrong."""
    pooled = per_photo.sum(0)
    return np.array([f1(pooled[[PARSING_ID[name] for name in names]].sum(0)) for names in REGIONS.values()])


def photo_f1(counts: np.ndarray) -> float:
    """Mean F1 of one photo's regions (those that it or its mask shows), from counts [19, 3]; NaN without any."""
    regions = region_f1(counts[None])
    return float(np.nanmean(regions)) if not np.isnan(regions).all() else float("nan")


def mean_region_f1(per_photo: np.ndarray) -> float:
    """Mean over the regions of counts [N, 19, 3] pooled over photos."""
    return float(np.nanmean(region_f1(per_photo)))


def pooled_f1(per_photo: np.ndarray) -> float:
    """F1 of counts [N, classes, 3] pooled over photos and classes; NaN where none shows them."""
    return float(f1(per_photo.sum((0, 1))))


def _common_mask(dataset: "FaceDataset", batch: int, total: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of (the most common mask, masks), ids [N, S, S] each."""

    def masks() -> Iterator[np.ndarray]:
        for start in range(0, total, batch):
            yield dataset.batch(range(start, min(start + batch, total)), ("mask",))["mask"].numpy()  # type: ignore[union-attr]

    classes = np.arange(len(PARSING_CLASSES))[:, None, None]
    votes = sum((part[:, None] == classes).sum(0) for part in masks())
    common = np.asarray(votes).argmax(0)
    for part in masks():
        yield np.broadcast_to(common, part.shape), part


def _shown(names: Iterable[str], values: np.ndarray) -> dict[str, float]:
    """By name, without what no photo and no prediction shows, whose F1 is NaN."""
    return {name: float(value) for name, value in zip(names, values, strict=True) if not np.isnan(value)}


def segmentation_report(
    predict: Callable[[Tensor], Tensor], dataset: "FaceDataset", batch: int, limit: int | None
) -> dict[str, Any]:
    """`predict` maps crops uint8 [N, 3, S, S] to ids uint8 [N, S, S]; the dataset has masks.

    `baseline_mean_f1` is of one mask for all, at each place the class that most of these very masks show there.
    """
    found = []
    total = min(len(dataset), limit or len(dataset))
    for start in range(0, total, batch):
        columns = dataset.batch(range(start, min(start + batch, total)), ("image", "mask"))
        found.append(counts(predict(columns["image"]).numpy(), columns["mask"].numpy()))  # type: ignore[arg-type, union-attr]
    per_photo = np.concatenate(found)
    record("photo_f1", np.array([photo_f1(photo) for photo in per_photo]))
    pooled = f1(per_photo.sum(0))
    correct = per_photo[:, :, 0].sum(1) / (per_photo[:, :, 0] + per_photo[:, :, 2]).sum(1)
    baseline = {}
    if baselines_wanted():
        common = np.concatenate([counts(*pair) for pair in _common_mask(dataset, batch, total)])
        baseline = {"baseline_mean_f1": bootstrap(common, mean_region_f1, draws=300)}
    regions = {
        name: bootstrap(per_photo[:, [PARSING_ID[part] for part in parts]], pooled_f1, draws=300)
        for name, parts in REGIONS.items()
        if not np.isnan(pooled_f1(per_photo[:, [PARSING_ID[part] for part in parts]]))
    }
    return {
        "mean_f1": bootstrap(per_photo, mean_region_f1, draws=300),
        **baseline,
        "pixel_accuracy": bootstrap(correct),
        "region_f1": regions,
        "class_f1": _shown(PARSING_CLASSES, pooled),
        "baseline_pixel_accuracy_one_class": bootstrap(
            (per_photo[:, :, 0] + per_photo[:, :, 2]).max(1) / (per_photo[:, :, 0] + per_photo[:, :, 2]).sum(1)
        ),
    }
