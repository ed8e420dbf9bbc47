"""How well attributes are told: accuracy against the majority guess, AUC, calibration, subgroups, with intervals.

Every statistic is a function of how often each photo counts, so that a bootstrap draw is one weight vector and the
sorting for the AUC is done once.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from rayface.errors import RayfaceError
from rayface.evaluation.metrics import area_under_curve, weighted_bootstrap
from rayface.evaluation.subgroups import group_masks
from rayface.records import ATTRIBUTE_ID, ATTRIBUTES

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

Array = np.ndarray
Statistic = Callable[[Array], Any]  # photo weights float [N] -> a number or an array [A]

LEAST_PHOTOS = 5  # attributes with fewer positives or negatives are reported apart: their AUC says nothing
DRAWS = 500  # of the bootstrap
BINS = 15  # of the calibration error


def calibration_error(probabilities: Array, labels: Array) -> Statistic:
    """Expected calibration error over all labels pooled: |mean probability - share of positives|, by 15 equal bins."""
    known = labels != 0
    bins = np.minimum((probabilities[known] * BINS).astype(int), BINS - 1)
    photo, gap = np.nonzero(known)[0], probabilities[known] - (labels[known] > 0)

    def statistic(weights: Array) -> Array:
        weight = weights[photo]
        return np.asarray(np.abs(np.bincount(bins, weight * gap, BINS)).sum() / weight.sum())

    return statistic


def share(hits: Array, counted: Array) -> Statistic:
    """Per column the weighted mean of `hits` float [N, A] over the photos that `counted` bool [N, A] marks."""

    def statistic(weights: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return (weights[:, None] * hits * counted).sum(0) / (weights[:, None] * counted).sum(0)

    return statistic


def mean_of(statistic: Statistic) -> Statistic:
    """The mean of a statistic's columns, those that are not a number left out."""
    return lambda weights: np.nanmean(statistic(weights))


def majority_guess(dataset: "FaceDataset") -> Array | None:
    """What most train photos of the same data are, int [40] of 1 and -1; None where it has no labelled train split."""
    from rayface.data.dataset import FaceDataset

    try:
        train = FaceDataset(dataset.path, "train", require=("attributes",))
    except RayfaceError:
        return None
    labels = train.batch(range(len(train)), ("attributes",))["attributes"]
    assert isinstance(labels, Tensor)
    return np.where(labels.numpy().astype(int).sum(0) > 0, 1, -1)


def attribute_report(
    predict: Callable[[Tensor], Tensor], dataset: "FaceDataset", batch: int, limit: int | None = None
) -> dict[str, Any]:
    """`predict` maps crops uint8 [N, 3, S, S] to probabilities float [N, 40]; yes is 0.5 and above.

    The dataset has attributes (records.ATTRIBUTES; 0 is unknown and not counted).
    """
    found, known = [], []
    total = min(len(dataset), limit or len(dataset))
    for start in range(0, total, batch):
        columns = dataset.batch(range(start, min(start + batch, total)), ("image", "attributes"))
        found.append(predict(columns["image"]).double().numpy())  # type: ignore[arg-type]
        known.append(columns["attributes"].numpy())  # type: ignore[union-attr]
    return summary(np.concatenate(found), np.concatenate(known).astype(int), majority_guess(dataset))


def summary(probabilities: Array, labels: Array, majority: Array | None) -> dict[str, Any]:
    """The report of probabilities float [N, 40] and labels int [N, 40] (1, -1, 0); `majority` int [40] or None."""
    photos = len(labels)
    positives, negatives = (labels > 0).sum(0), (labels < 0).sum(0)
    common = np.minimum(positives, negatives) >= LEAST_PHOTOS
    known = labels != 0
    correct = ((probabilities >= 0.5) == (labels > 0)).astype(float)
    accuracy, auc = share(correct, known), area_under_curve(probabilities, labels)
    of_positives, of_negatives = share(correct, labels > 0), share(correct, labels < 0)
    squared_error = share((probabilities - (labels > 0)) ** 2, known)
    report: dict[str, Any] = {
        "mean_accuracy": weighted_bootstrap(mean_of(accuracy), photos, DRAWS),
        "macro_auc_attributes": int(common.sum()),
        "calibration_error": weighted_bootstrap(calibration_error(probabilities, labels), photos, DRAWS),
        "brier": weighted_bootstrap(mean_of(squared_error), photos, DRAWS),
    }
    if common.any():
        report["macro_auc"] = weighted_bootstrap(lambda w: np.nanmean(auc(w)[common]), photos, DRAWS)
    if majority is not None:
        guessed = share((majority == labels).astype(float), known)
        report["majority_accuracy"] = weighted_bootstrap(mean_of(guessed), photos, DRAWS)
        report["gain_over_majority"] = weighted_bootstrap(lambda w: np.nanmean(accuracy(w) - guessed(w)), photos, DRAWS)
    measured = {
        "accuracy": weighted_bootstrap(accuracy, photos, DRAWS),
        "balanced_accuracy": weighted_bootstrap(lambda w: (of_positives(w) + of_negatives(w)) / 2, photos, DRAWS),
        "auc": weighted_bootstrap(auc, photos, DRAWS),
    }
    tables: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for a in np.flatnonzero(known.any(0)):
        counts = {"positives": int(positives[a]), "negatives": int(negatives[a])}
        values = {name: entries[a] for name, entries in measured.items() if common[a] or name == "accuracy"}
        tables[bool(common[a])][ATTRIBUTES[a]] = counts | values
    subgroups = _subgroups(correct, labels)
    return report | {"attributes": tables[True], "rare_attributes": tables[False], "subgroups": subgroups}


def _subgroups(correct: Array, labels: Array) -> dict[str, Any]:
    """Mean accuracy of the other 39 attributes among the photos that have, and have not, each of subgroups.GROUPS."""
    groups: dict[str, Any] = {}
    for group, chosen in group_masks(labels).items():
        name, _, answer = group.partition(": ")
        others = np.arange(len(ATTRIBUTES)) != ATTRIBUTE_ID[name]
        if chosen.sum() >= LEAST_PHOTOS:
            accuracy = share(correct[chosen][:, others], labels[chosen][:, others] != 0)
            groups.setdefault(name, {})[answer] = weighted_bootstrap(mean_of(accuracy), int(chosen.sum()), DRAWS)
    return groups
